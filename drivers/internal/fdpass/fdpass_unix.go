//go:build unix

package fdpass

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxFiles is how many files fit into one read, and into a Reader. A correct peer sends
// one. The kernel closes those that do not fit a read, and keep those that do not fit
// the Reader: a peer that passes some with each byte must not use up our descriptors.
const maxFiles = 4

// Send writes b to conn, and passes f with the first byte. f stays the caller's.
func Send(conn *net.UnixConn, b []byte, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		var n int
		n, _, sendErr = conn.WriteMsgUnix(b, unix.UnixRights(int(fd)), nil)
		if sendErr == nil && n < len(b) {
			_, sendErr = conn.Write(b[n:])
		}
	})
	return errors.Join(err, sendErr)
}

// Read implements io.Reader.
func (r *Reader) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := r.Conn.ReadMsgUnix(b, oob) // sets close-on-exec
	if oobn > 0 {
		if keepErr := r.keep(oob[:oobn]); keepErr != nil {
			return n, keepErr
		}
	}
	if err == nil && n == 0 && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// keep adds the files of control messages to Files, and closes those beyond maxFiles.
func (r *Reader) keep(oob []byte) error {
	fds, err := descriptors(oob)
	for _, fd := range fds {
		if len(r.Files) == maxFiles {
			_ = unix.Close(fd) // nobody has used it
			continue
		}
		r.Files = append(r.Files, os.NewFile(uintptr(fd), "passed"))
	}
	return err
}

// descriptors returns the descriptors in control messages.
func descriptors(oob []byte) (fds []int, err error) {
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
