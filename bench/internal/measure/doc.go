// Package measure holds what every benchmark here needs: a clock, latency
// histograms, what a process has used, what machine this is, and the arithmetic
// of rounds.
package measure
