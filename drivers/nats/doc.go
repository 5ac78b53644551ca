// Package natsipc takes the contract of package ipc beyond one machine: it puts the handlers of a
// server, or a whole pool of workers, behind a NATS service, and calls them from anywhere.
package natsipc
