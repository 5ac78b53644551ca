package socket

import (
	"os"

	"golang.org/x/sys/unix"
)

func peerCredentials(conn netConn) (credentials, error) {
	return onFD(conn, func(fd int) (credentials, error) {
		x, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		if err != nil {
			return credentials{}, os.NewSyscallError("getsockopt LOCAL_PEERCRED", err)
		}
		pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
		if err != nil {
			return credentials{}, os.NewSyscallError("getsockopt LOCAL_PEERPID", err)
		}
		return credentials{uid: int(x.Uid), pid: pid}, nil
	})
}
