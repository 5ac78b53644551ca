//go:build !unix

package fdpass

import (
	"errors"
	"net"
	"os"
)

// Socketpair fails on this system.
func Socketpair(int) (*net.UnixConn, *os.File, error) { return nil, nil, errors.ErrUnsupported }

// Conn fails on this system.
func Conn(*os.File) (*net.UnixConn, error) { return nil, errors.ErrUnsupported }

// Send fails on this system.
func Send(*net.UnixConn, []byte, *os.File) error { return errors.ErrUnsupported }

// Pass fails on this system.
func Pass(*net.UnixConn, []byte, *os.File) (int, error) { return 0, errors.ErrUnsupported }

// Receive fails on this system.
func Receive(uintptr, []byte, int) (int, []*os.File, bool, error) {
	return 0, nil, false, errors.ErrUnsupported
}

// Read fails on this system.
func (r *Reader) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// HungUp reports true.
func HungUp(uintptr) bool { return true }
