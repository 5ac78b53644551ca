//go:build darwin || aix || solaris

package fdpass

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// receive is recvmsg, without blocking. What comes is closed when another program is executed:
// no process is started before that is set.
func receive(fd int, b, oob []byte) (n, oobn, flags int, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, b, oob, unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			break
		}
	}
	if err == nil && oobn > 0 {
		fds, _ := Descriptors(oob[:oobn])
		for _, fd := range fds {
			unix.CloseOnExec(fd)
		}
	}
	return n, oobn, flags, err
}
