// Package peercred asks the system who is at the other end of a Unix socket.
package peercred

// Credentials are what the kernel says of the process at the other end: of the
// one that called listen, seen from the side that connected, and of the one
// that connected, seen from the side that accepted. The ends of a socket pair both have
// those of the process that made the pair.
type Credentials struct {
	UID int
	GID int // the effective one
	PID int // 0 where the system does not tell
}
