// Package bulk copies payloads of some kilobytes and more between memory that two
// processes share and memory of this one.
//
// Go's own copy is an AVX loop on most processors. Each of its stores asks for a cache line
// that the other process has, and waits its turn. REP MOVSB, where the processor says
// that it is fast, knows from the start how much is to be written, and asks for many lines
// at once.
package bulk
