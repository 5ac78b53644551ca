//go:build unix

package fdpass

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Socketpair returns a connected pair of a type such as SOCK_STREAM, ours for the
// netpoller and theirs to be inherited or passed on. Both are close-on-exec.
func Socketpair(typ int) (ours *net.UnixConn, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	fds, err := unix.Socketpair(unix.AF_UNIX, typ, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs, first := os.NewFile(uintptr(fds[1]), "socketpair"), os.NewFile(uintptr(fds[0]), "socketpair")
	defer first.Close()
	if ours, err = Conn(first); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// Conn makes a connection of f, a Unix socket, with a descriptor of its own. f stays the
// caller's, who may close it.
func Conn(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("tandem: use a Unix socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("tandem: the descriptor is a %T, not a Unix socket", c)
	}
	return u, nil
}
