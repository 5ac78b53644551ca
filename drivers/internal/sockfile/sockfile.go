// Package sockfile names the files of Unix sockets in directories that are held open, and tells
// what the system knows of them.
package sockfile

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// MaxPath is the longest path of a socket in bytes: the system's address holds
// one byte more, for a zero at its end.
const MaxPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// ErrNotSocket says that a file is no socket.
var ErrNotSocket = errors.New("tandem: not a socket")

// RuntimeDir returns XDG_RUNTIME_DIR if it is a directory that belongs to this
// user and that nobody else can enter, and otherwise "".
func RuntimeDir() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		return ""
	}
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 || Owner(info) != os.Geteuid() {
		return ""
	}
	return filepath.Clean(dir)
}

// NobodyListens reports whether err, of a dial, says that the file is there and that no process
// listens.
func NobodyListens(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// WithoutAddress takes the address off an error of package net: it would be that
// of a descriptor.
func WithoutAddress(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
