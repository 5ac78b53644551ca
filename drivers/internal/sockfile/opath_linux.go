package sockfile

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// DialName returns a name under which the socket called name in dir can be
// dialled, whatever becomes of path, and what releases it. Without /proc it is
// path. If dir is nil, name is path. It fails with ErrNotSocket if there is another file.
func DialName(dir *os.File, name, path string) (string, func(), error) {
	at := unix.AT_FDCWD
	if dir != nil {
		at = int(dir.Fd())
	}
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", nil, os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && info.Mode().Type() != os.ModeSocket {
		err = fmt.Errorf("%w: it is a file of mode %v", ErrNotSocket, info.Mode())
	}
	if err != nil {
		f.Close()
		return "", nil, err
	}
	if named := fdName(f); named != "" {
		return named, func() { f.Close() }, nil
	}
	f.Close()
	return path, func() {}, nil
}

// BindName returns a name under which a socket called name can be bound in dir,
// whatever becomes of path. Without /proc, and if name is too long, it is path.
func BindName(dir *os.File, name, path string) string {
	if named := fdName(dir); named != "" && len(named)+1+len(name) <= MaxPath {
		return named + "/" + name
	}
	return path
}

// fdName returns the name that /proc gives to an open file, "" if it gives none.
func fdName(f *os.File) string {
	name := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if _, err := os.Lstat(name); err != nil {
		return ""
	}
	return name
}
