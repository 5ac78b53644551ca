//go:build unix && !linux

package socket

import "golang.org/x/sys/unix"

const (
	// The Go runtime ignores SIGPIPE, and not every system knows the flag.
	sendFlags  = 0
	pollHangup = 0
	// Elsewhere ending the reading half may drop what has arrived.
	endHow = unix.SHUT_WR
	// macOS has no packets here. One byte is read at a time.
	handoverType = unix.SOCK_STREAM
)

func sendParts(fd int, parts *[3][]byte) (int, error) {
	return unix.SendmsgBuffers(fd, parts[:], nil, nil, sendFlags)
}
