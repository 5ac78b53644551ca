//go:build linux || darwin || freebsd

package socket

import "fmt"

// onFD runs get on the descriptor of conn.
func onFD(conn netConn, get func(fd int) (credentials, error)) (c credentials, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return c, fmt.Errorf("tandem: socket: %w", err)
	}
	if ctlErr := raw.Control(func(fd uintptr) { c, err = get(int(fd)) }); ctlErr != nil {
		err = ctlErr
	}
	if err != nil {
		return c, fmt.Errorf("tandem: socket: credentials of the peer: %w", err)
	}
	return c, nil
}
