//go:build unix

package socket

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// errAgain: the socket has nothing to read, or no room to write, now.
var errAgain = errors.New("tandem: socket: would block")

func supported() error { return nil }

// recv reads what is there into b, and the control messages that came with it into oob. At the end of
// the stream, whether the peer closed it in good order or died, the error is io.EOF.
func recv(fd int, b, oob []byte) (n, oobn, flags int, err error) {
	for {
		n, oobn, flags, err = recvmsg(fd, b, oob)
		switch {
		case err == nil && n > 0:
			return n, oobn, flags, nil
		case err == nil:
			return 0, 0, 0, io.EOF
		case err == unix.EAGAIN:
			return 0, 0, 0, errAgain
		case err == unix.EINTR:
		default:
			return 0, 0, 0, ended("read", err)
		}
	}
}

// send writes as much of the parts as there is room for. The error is io.EOF if
// nobody can read it any more.
func send(fd int, parts *[3][]byte) (n int, err error) {
	for {
		if len(parts[1])+len(parts[2]) == 0 {
			n, err = unix.SendmsgN(fd, parts[0], nil, nil, sendFlags)
		} else {
			n, err = sendParts(fd, parts)
		}
		switch {
		case err == nil:
			return n, nil
		case err == unix.EAGAIN, err == unix.ENOBUFS: // ENOBUFS is what BSDs say
			return 0, errAgain
		case err == unix.EINTR:
		default:
			return 0, ended("write", err)
		}
	}
}

func ended(op string, err error) error {
	switch err {
	case unix.EPIPE, unix.ECONNRESET, unix.ENOTCONN, unix.ESHUTDOWN:
		// A reset is how a peer's death shows if it had not read everything.
		return io.EOF
	}
	return os.NewSyscallError(op, err)
}

// poll reports whether recv would return something other than errAgain.
func poll(fd int) bool { return pollFor(fd, unix.POLLIN|pollHangup) != 0 }

// hungUp reports whether the peer has ended the connection.
func hungUp(fd int) bool {
	return pollFor(fd, pollHangup)&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL|pollHangup) != 0
}

func pollFor(fd int, events int16) int16 {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		if _, err := unix.Poll(p[:], 0); err != unix.EINTR {
			return p[0].Revents
		}
	}
}

// endStream tells the peer that there will be no more.
func endStream(fd int) { _ = unix.Shutdown(fd, endHow) }

// widen asks for larger socket buffers; the system caps what it gives.
func widen(fd, size int) {
	for _, opt := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
		if now, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt); err == nil && now < size {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, size)
		}
	}
}
