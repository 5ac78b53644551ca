// Package hostile has no code but its tests: a table of what a hostile peer can do, and
// what the honest side has to make of it.
//
// Each row runs in both roles and with both drivers, as far as they make a difference.
// The test starts the honest side and the hostile one as processes of their own, because
// that is what they are, and because the memory, the descriptors and the goroutines of
// the honest side are measured:
//
//	test --> honest host --> hostile worker
//	test --> hostile host --> honest worker
//
// The honest side makes calls and answers calls all the while, and reports how each of
// them has ended.
package hostile
