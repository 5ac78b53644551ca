// Package rings measures the bare ring between two processes, without driver, frames and
// calls.
package rings

// Bytes is the size of a ring.
const Bytes = 1 << 20

// The ways to use a ring.
const (
	Copy  = "ring"       // records are copied in
	Claim = "ring-claim" // into memory that was claimed in the ring
	Lease = "ring-lease" // the reader holds each record until two more have come
)
