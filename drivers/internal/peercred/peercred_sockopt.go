//go:build linux || darwin || freebsd

package peercred

import (
	"fmt"
	"net"
)

// onFD runs get on the descriptor of conn.
func onFD(conn *net.UnixConn, get func(fd int) (Credentials, error)) (c Credentials, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return c, fmt.Errorf("tandem: %w", err)
	}
	if ctlErr := raw.Control(func(fd uintptr) { c, err = get(int(fd)) }); ctlErr != nil {
		err = ctlErr
	}
	if err != nil {
		return c, fmt.Errorf("tandem: credentials of the peer: %w", err)
	}
	return c, nil
}
