package peercred

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Of returns the credentials of the process at the other end of conn.
func Of(conn *net.UnixConn) (Credentials, error) {
	return onFD(conn, func(fd int) (Credentials, error) {
		u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return Credentials{}, os.NewSyscallError("getsockopt SO_PEERCRED", err)
		}
		return Credentials{UID: int(u.Uid), GID: int(u.Gid), PID: int(u.Pid)}, nil
	})
}
