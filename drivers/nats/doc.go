// Package natsipc takes the contract of package ipc beyond one machine: it puts the handlers of a
// server, or a whole pool of workers, behind a NATS service, and calls them from anywhere.
//
// [Serve] and [Forward] answer calls and streams, and [Caller] makes them. It is a gateway
// behind the contract: a process that is reached in this way is nobody's child, and has no link.
// docs/distribution.md says what stays the same, and what does not.
package natsipc
