// Package latest holds state that one process writes and any number of processes read, in
// memory that they share: a [Writer] stores a value, and a [Reader] loads the last one that
// is complete. [Counters] are words that one process counts up.
//
// The writer never waits for anything, and does not know its readers. Readers write nothing:
// their memory can be mapped read-only. A value that is loaded is always one that was stored,
// never parts of two.
//
// The package works on bytes that somebody else has mapped. Package ipc has the same with
// types and with memory of its own.
package latest
