// Package wait is how goroutines wait for another process: a [Spinner] says for how long to poll, and a
// [Sleeper] sleeps on a word of the other process, by futex on Linux.
package wait

// A Mode says how to wait: spin, park, or spin first and park then.
type Mode int

const (
	Adaptive Mode = iota // spin for as long as spinning has lately paid off, then park
	Spin                 // never park
	Park                 // park at once
)
