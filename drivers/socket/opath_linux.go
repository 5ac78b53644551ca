package socket

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pin holds the socket file at path by a descriptor, so that it can be dialled
// after its name is gone. It fails where /proc is missing.
func pin(path string) (f *os.File, name string, err error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	f = os.NewFile(uintptr(fd), path)
	name = fmt.Sprintf("/proc/self/fd/%d", fd)
	seen, err := os.Stat(name)
	if err == nil && seen.Mode().Type() != os.ModeSocket {
		err = fmt.Errorf("tandem: socket: %s is a file of mode %v, not a socket", path, seen.Mode())
	}
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return f, name, nil
}
