//go:build !unix

package fdpass

import (
	"errors"
	"net"
	"os"
)

// Send fails on this system.
func Send(*net.UnixConn, []byte, *os.File) error { return errors.ErrUnsupported }

// Read fails on this system.
func (r *Reader) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }
