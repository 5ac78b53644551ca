//go:build unix && !darwin && !aix && !solaris

package fdpass

import "golang.org/x/sys/unix"

// receive is recvmsg, without blocking. What comes is closed when another program is executed.
func receive(fd int, b, oob []byte) (n, oobn, flags int, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, b, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			return n, oobn, flags, err
		}
	}
}
