//go:build !linux

package sockfile

import (
	"fmt"
	"os"
	"runtime"
)

// DialName returns path: the system has no other name for a file. It fails with ErrNotSocket if there is
// another file than a socket.
func DialName(_ *os.File, _, path string) (string, func(), error) {
	info, err := os.Lstat(path)
	if err == nil && runtime.GOOS != "windows" && info.Mode().Type() != os.ModeSocket {
		err = fmt.Errorf("%w: it is a file of mode %v", ErrNotSocket, info.Mode())
	}
	return path, func() {}, err
}

// BindName returns path: the system has no other name for a file.
func BindName(_ *os.File, _, path string) string { return path }
