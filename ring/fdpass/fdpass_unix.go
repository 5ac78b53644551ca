//go:build unix

package fdpass

import (
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxFiles is how many files fit into one read, and into a Reader. A correct peer sends
// one. The kernel closes those that do not fit a read, and those that do not fit the Reader are an error: a peer
// that passes some with each byte must not use up our descriptors.
const maxFiles = 4

// Send writes b to conn, and passes f with the first byte. f stays the caller's.
func Send(conn *net.UnixConn, b []byte, f *os.File) error {
	n, err := Pass(conn, b, f)
	if err == nil && n < len(b) {
		_, err = conn.Write(b[n:])
	}
	return err
}

// Pass writes b to conn with one system call, which may write less, and passes f with the
// first byte, or nothing if f is nil. f stays the caller's, who may close it at any time.
func Pass(conn *net.UnixConn, b []byte, f *os.File) (n int, err error) {
	if f == nil {
		n, _, err = conn.WriteMsgUnix(b, nil, nil)
		return n, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if raw.Control(func(fd uintptr) { n, _, err = conn.WriteMsgUnix(b, unix.UnixRights(int(fd)), nil) }) != nil {
		return 0, os.ErrClosed // which is what the error means
	}
	return n, err
}

// Receive reads once from the socket fd into b, without blocking, and returns the files that came
// with the bytes: one more than most at most. lost says that there were some for which this
// process has no descriptor, or that were too many. The error is EAGAIN if there is nothing
// to read, and io.EOF at the end.
func Receive(fd uintptr, b []byte, most int) (n int, files []*os.File, lost bool, err error) {
	oob := make([]byte, unix.CmsgSpace(4*(most+1)))
	n, oobn, flags, err := receive(int(fd), b, oob)
	if err != nil {
		return 0, nil, false, os.NewSyscallError("recvmsg", err)
	}
	if oobn > 0 {
		fds, err := Descriptors(oob[:oobn])
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
		if err != nil {
			return n, files, false, err
		}
	}
	if n == 0 && len(b) > 0 {
		err = io.EOF
	}
	return n, files, flags&unix.MSG_CTRUNC != 0, err
}

// Read implements io.Reader. It fails with EMFILE, and the bytes are lost, if this process
// has no descriptor left for a file that came with them.
func (r *Reader) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := r.Conn.ReadMsgUnix(b, oob) // sets close-on-exec
	passed := 0
	if oobn > 0 {
		var keepErr error
		if passed, keepErr = r.keep(oob[:oobn]); keepErr != nil {
			return 0, keepErr
		}
	}
	// The kernel drops files for which it finds no room in oob, or no number in this
	// process.
	if flags&unix.MSG_CTRUNC != 0 && passed < maxFiles {
		return 0, fmt.Errorf("tandem: take a file that was passed: %w", os.NewSyscallError("recvmsg", unix.EMFILE))
	}
	if err == nil && n == 0 && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// keep adds the files of control messages to Files. It fails for those beyond maxFiles, and closes them. It
// returns how many there were.
func (r *Reader) keep(oob []byte) (passed int, err error) {
	fds, err := Descriptors(oob)
	var beyond Reader
	for _, fd := range fds {
		to := r
		if len(r.Files) == maxFiles {
			to, err = &beyond, ErrTooManyFiles
		}
		to.Files = append(to.Files, os.NewFile(uintptr(fd), "passed"))
	}
	beyond.Discard()
	return len(fds), err
}

// Descriptors returns the descriptors in control messages that the kernel has made.
func Descriptors(oob []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("tandem: parse a control message: %w", err)
	}
	for _, m := range messages {
		if len(m.Data)%4 != 0 {
			continue // no kernel does this, and ParseUnixRights would panic
		}
		passed, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // a message of another type, which nobody has asked for
		}
		fds = append(fds, passed...)
	}
	return fds, nil
}

// HungUp reports whether the peer of the socket fd has closed it.
func HungUp(fd uintptr) bool {
	p := [1]unix.PollFd{{Fd: int32(fd)}}
	_, err := unix.Poll(p[:], 0)
	return err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}
