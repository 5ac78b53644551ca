// Package suite is the frame that benchmark programs share: flags, scenarios,
// workers, load, rounds, progress and reports.
//
// A scenario plans groups of cases. The cases of a group are what is compared:
// they run interleaved, round by round (A B C A B C ...), and their ratios are
// taken within each round, since machines drift.
package suite
