//go:build !unix

package shm

import (
	"errors"
	"net"
	"os"
)

func sendFile(*net.UnixConn, []byte, *os.File) error { return errors.ErrUnsupported }

// Read fails on this system.
func (r *fileReader) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }
