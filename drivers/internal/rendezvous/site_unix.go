//go:build unix && !solaris && !aix

package rendezvous

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/internal/process"
)

// backlog is how many connections wait to be accepted; the system may allow less.
const backlog = unix.SOMAXCONN

func supported() error { return nil }

// othersWrite reports whether others than its owner can write a file, as far as its mode tells.
func othersWrite(info fs.FileInfo) bool { return info.Mode().Perm()&0o022 != 0 }

// newSocket makes a socket that no child inherits.
func newSocket(kind int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(unix.AF_UNIX, kind, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	unix.CloseOnExec(fd)
	return fd, nil
}

// bindAndListen binds a socket to a path, calls ready, and listens: until then nobody can connect.
// On Linux the file never has a right that mode has not. That matters although nobody can connect
// yet: the system looks at the file's mode first, and whether somebody listens later.
func bindAndListen(path string, mode fs.FileMode, ready func() error) (*net.UnixListener, error) {
	fd, err := newSocket(unix.SOCK_STREAM)
	if err != nil {
		return nil, process.Shortage(err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	_ = unix.Fchmod(fd, uint32(mode.Perm())) // other systems have no modes of sockets
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, process.Shortage(os.NewSyscallError("bind", err))
	}
	if err := ready(); err != nil {
		return nil, err
	}
	return listenOn(f)
}

// listenOn listens, and makes this process the one that the system names to those who connect.
func listenOn(f *os.File) (*net.UnixListener, error) {
	if err := listenAgain(f); err != nil {
		return nil, err
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, process.Shortage(err)
	}
	ln, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("%w: it is a %T", ErrNotSocket, l)
	}
	ln.SetUnlinkOnClose(false) // Listener.Close looks first whose it is
	return ln, nil
}

// listenAgain calls listen for a socket.
func listenAgain(socket syscall.Conn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var listenErr error
	if err := raw.Control(func(fd uintptr) { listenErr = unix.Listen(int(fd), backlog) }); err != nil {
		return err
	}
	if listenErr != nil {
		return process.Shortage(os.NewSyscallError("listen", listenErr))
	}
	return nil
}

// copyOf returns a copy of a listener's socket. Unlike that of net.UnixListener.File, its Fd does not make the
// socket block, which both copies share: the listener's Accept could not be ended then.
func copyOf(ln *net.UnixListener) (f *os.File, err error) {
	raw, err := ln.SyscallConn()
	if err != nil {
		return nil, err
	}
	if ctlErr := raw.Control(func(fd uintptr) {
		var n int
		if n, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err != nil {
			err = os.NewSyscallError("fcntl", err)
			return
		}
		f = os.NewFile(uintptr(n), ln.Addr().String())
	}); ctlErr != nil {
		err = ctlErr
	}
	return f, err
}

// lookAt asks whether a process has the stream socket at a path, by connecting a datagram socket:
// the system finds the socket, and refuses because it is of another type.
func lookAt(path string) error {
	fd, err := newSocket(unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err {
	case nil, unix.EPROTOTYPE:
		return nil
	default:
		return os.NewSyscallError("connect", err)
	}
}

// checkListening returns an error unless f is a Unix stream socket that listens.
func checkListening(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSocket, err)
	}
	var sa unix.Sockaddr
	var kind, accepts int
	var errs [3]error
	if err := raw.Control(func(fd uintptr) {
		sa, errs[0] = unix.Getsockname(int(fd))
		kind, errs[1] = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE)
		accepts, errs[2] = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	}); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSocket, err)
	}
	_, isUnix := sa.(*unix.SockaddrUnix)
	switch {
	case errs[0] != nil:
		return fmt.Errorf("%w: %w", ErrNotSocket, errs[0])
	case !isUnix:
		return fmt.Errorf("%w: it is a socket of another family", ErrNotSocket)
	case errs[1] != nil || kind != unix.SOCK_STREAM:
		return fmt.Errorf("%w: it is a Unix socket of type %d", ErrNotSocket, kind)
	case errs[2] == nil && accepts == 0:
		return fmt.Errorf("%w: it does not listen", ErrNotSocket)
	}
	return nil
}

// inheritedFile returns a descriptor that this process was started with, nil if there is none. No child
// inherits it.
func inheritedFile(fd int, name string) *os.File {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		return nil
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

// sendNow sends what there is room for.
func sendNow(conn *net.UnixConn, b []byte) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Write(func(fd uintptr) bool { _, _ = unix.Write(int(fd), b); return true })
	}
}
