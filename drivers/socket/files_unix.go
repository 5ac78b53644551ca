//go:build unix

package socket

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/fdpass"
)

const filesSupported = true

// rightsSize is the room for the files of one read.
var rightsSize = unix.CmsgSpace(4 * ipc.MaxFiles)

// sendFiles is send that passes files with the first byte. Where the system refuses them the error
// is a [*drivers.AttachError].
func sendFiles(fd int, parts *[3][]byte, files []*os.File) (n int, err error) {
	err = withDescriptors(files, make([]int, 0, ipc.MaxFiles), func(fds []int) error {
		rights := unix.UnixRights(fds...)
		for {
			n, err = unix.SendmsgBuffers(fd, parts[:], rights, nil, sendFlags)
			switch err {
			case nil:
				return nil
			case unix.EINTR:
			case unix.EAGAIN, unix.ENOBUFS:
				return errAgain
			default:
				if err = ended("sendmsg", err); err != io.EOF {
					err = &drivers.AttachError{Err: process.Shortage(err)}
				}
				return err
			}
		}
	})
	return n, err
}

// parcelOf makes a parcel of the control messages that came with a read.
func parcelOf(oob []byte, flags int) (p parcel, err error) {
	fds, err := fdpass.Descriptors(oob)
	for _, fd := range fds {
		p.files = append(p.files, os.NewFile(uintptr(fd), "passed"))
	}
	p.lost = flags&unix.MSG_CTRUNC != 0
	return p, err
}
