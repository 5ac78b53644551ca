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

// maxFiles is how many files fit into one read, and how many a Reader takes in all. A
// correct peer sends one; the kernel closes those that do not fit.
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

// Read implements io.Reader. It fails with EMFILE, and the bytes are lost, if this process
// has no descriptor left for a file that came with them.
func (r *Reader) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := r.Conn.ReadMsgUnix(b, oob) // sets close-on-exec
	before := len(r.Files)
	if oobn > 0 {
		if keepErr := r.keep(oob[:oobn]); keepErr != nil {
			return 0, keepErr
		}
	}
	// The kernel drops files for which it finds no room in oob, or no number in this
	// process.
	if flags&unix.MSG_CTRUNC != 0 && len(r.Files)-before < maxFiles {
		return 0, fmt.Errorf("tandem: take a file that was passed: %w", os.NewSyscallError("recvmsg", unix.EMFILE))
	}
	if len(r.Files) > maxFiles { // a peer could use up our descriptors, a few with each byte
		return 0, fmt.Errorf("tandem: the other side passed %d files, largest allowed %d", len(r.Files), maxFiles)
	}
	if err == nil && n == 0 && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// keep adds the files of control messages to Files.
func (r *Reader) keep(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("tandem: parse a control message: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // a message of another type, which nobody has asked for
		}
		for _, fd := range fds {
			r.Files = append(r.Files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return nil
}
