package socket

import "golang.org/x/sys/unix"

const (
	sendFlags  = unix.MSG_NOSIGNAL
	pollHangup = unix.POLLRDHUP
	// Linux keeps what has arrived readable, and refuses what comes later.
	endHow = unix.SHUT_RDWR
	// Packets keep descriptors apart.
	handoverType = unix.SOCK_SEQPACKET
)

// sendParts is writev, which x/sys calls without an allocation. It has no flag
// against SIGPIPE, but the Go runtime ignores that one.
func sendParts(fd int, parts *[3][]byte) (int, error) { return unix.Writev(fd, parts[:]) }
