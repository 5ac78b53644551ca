//go:build unix && !linux

package socket

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ring/fdpass"
)

// recvmsg reads into b, and control messages into oob. No process is started before what has come is
// marked to be closed then: not every system does that by itself.
func recvmsg(fd int, b, oob []byte) (n, oobn, flags int, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	n, oobn, flags, _, err = unix.Recvmsg(fd, b, oob, 0)
	if err == nil && oobn > 0 {
		fds, _ := fdpass.Descriptors(oob[:oobn])
		for _, fd := range fds {
			unix.CloseOnExec(fd)
		}
	}
	return n, oobn, flags, err
}
