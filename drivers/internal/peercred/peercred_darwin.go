package peercred

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Of returns the credentials of the process at the other end of conn.
func Of(conn *net.UnixConn) (Credentials, error) {
	return onFD(conn, func(fd int) (Credentials, error) {
		x, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		if err != nil {
			return Credentials{}, os.NewSyscallError("getsockopt LOCAL_PEERCRED", err)
		}
		pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
		if err != nil {
			return Credentials{}, os.NewSyscallError("getsockopt LOCAL_PEERPID", err)
		}
		return Credentials{UID: int(x.Uid), GID: int(x.Groups[0]), PID: pid}, nil
	})
}
