package socket

import (
	"os"

	"golang.org/x/sys/unix"
)

func peerCredentials(conn netConn) (credentials, error) {
	return onFD(conn, func(fd int) (credentials, error) {
		u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return credentials{}, os.NewSyscallError("getsockopt SO_PEERCRED", err)
		}
		return credentials{uid: int(u.Uid), pid: int(u.Pid)}, nil
	})
}
