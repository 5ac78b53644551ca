//go:build !linux && !darwin && !freebsd

package peercred

import (
	"net"
	"os"
)

// Of knows nothing here: the modes of the socket and of its
// directory are what keeps other users out.
func Of(*net.UnixConn) (Credentials, error) {
	return Credentials{UID: os.Geteuid(), GID: os.Getegid()}, nil
}
