//go:build unix

package shm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxRights is how many descriptors there is room for in one read. A correct
// peer sends one; the kernel drops and closes what does not fit.
const maxRights = 4

func sendFile(conn *net.UnixConn, b []byte, f *os.File) error {
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
func (r *fileReader) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxRights))
	n, oobn, _, _, err := r.conn.ReadMsgUnix(b, oob) // close-on-exec is set
	if oobn > 0 {
		if rightsErr := r.keep(oob[:oobn]); rightsErr != nil {
			return n, rightsErr
		}
	}
	if err == nil && n == 0 && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

func (r *fileReader) keep(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("tandem: shm: control message: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // of another type, which we have not asked for
		}
		for _, fd := range fds {
			r.files = append(r.files, os.NewFile(uintptr(fd), "segment"))
		}
	}
	return nil
}
