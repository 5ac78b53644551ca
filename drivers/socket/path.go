package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// maxPath is the longest path of a socket in bytes: the system's address holds
// one byte more, for a zero at its end.
const maxPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// socketName is the name of the socket in a directory of our own.
const socketName = "s"

// place is where a worker listens.
type place struct {
	path string // absolute
	dir  string // the directory made for it alone, or ""
}

// choosePlace checks the user's path, or makes a private directory.
func choosePlace(path string, attr *syscall.SysProcAttr) (place, error) {
	if path == "" {
		return makePlace(attr)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return place{}, fmt.Errorf("tandem: socket: path %q: %w", path, err)
	}
	if len(abs) > maxPath {
		return place{}, fmt.Errorf("tandem: socket: path %q has %d bytes, largest allowed %d: choose a shorter Driver.Path, or none", abs, len(abs), maxPath)
	}
	if err := checkFree(abs); err != nil {
		return place{}, err
	}
	return place{path: abs}, nil
}

// makePlace makes a directory that only the user can enter, with a path short
// enough for a socket.
func makePlace(attr *syscall.SysProcAttr) (place, error) {
	var dir string
	var err error
	for _, parent := range tempDirs() {
		if dir, err = os.MkdirTemp(parent, dirPattern); err != nil {
			continue
		}
		p := place{path: filepath.Join(dir, socketName), dir: dir}
		if len(p.path) > maxPath || !filepath.IsAbs(p.path) {
			err = fmt.Errorf("path %q has %d bytes, largest allowed %d", p.path, len(p.path), maxPath)
			os.Remove(dir)
			continue
		}
		if err = giveTo(attr, dir); err != nil {
			os.Remove(dir)
			break
		}
		return p, nil
	}
	return place{}, fmt.Errorf("tandem: socket: make a private directory for the socket (see TMPDIR, Driver.Path): %w", err)
}

// discard removes what a worker that did not start has left.
func (p place) discard() {
	if p.dir != "" {
		_ = os.Remove(p.path)
		_ = os.Remove(p.dir)
		return
	}
	_ = removeStale(p.path)
}

// remove removes the socket, if it is still the one that id describes, and the
// private directory.
func (p place) remove(id fs.FileInfo) {
	if _, err := os.Lstat(filepath.Dir(p.path)); err != nil {
		return // the directory of a worker that is ready, most of the time
	}
	unlock := lockDir(filepath.Dir(p.path))
	defer unlock()
	// Another worker may have taken the path over. A number of an inode is used
	// again soon, so the time of its making counts too.
	now, err := os.Lstat(p.path)
	if err == nil && id != nil && os.SameFile(now, id) && now.ModTime().Equal(id.ModTime()) {
		_ = os.Remove(p.path)
	}
	if p.dir != "" {
		_ = os.Remove(p.dir) // fails unless it is empty
	}
}

// checkFree returns nil if a worker can listen at path: there is nothing, or
// the socket of a process that has ended.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		parent, err := os.Stat(filepath.Dir(path))
		if err == nil && !parent.IsDir() {
			err = fmt.Errorf("%s is not a directory", filepath.Dir(path))
		}
		if err != nil {
			return fmt.Errorf("tandem: socket: nobody can listen at %s: %w", path, err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("tandem: socket: nobody can listen at %s: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("tandem: socket: %s is a file of mode %v, not a socket: remove it or choose another Driver.Path", path, info.Mode())
	}
	conn, err := net.DialTimeout("unix", path, helloTimeout)
	if err == nil {
		conn.Close()
	}
	if !nobodyListens(err) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tandem: socket: %s is in use: a process listens there (%v): end it or choose another Driver.Path", path, orConnected(err))
	}
	return nil
}

func orConnected(err error) any {
	if err == nil {
		return "it took a connection"
	}
	return err
}

// removeStale removes the socket at path if nobody listens there.
func removeStale(path string) error {
	unlock := lockDir(filepath.Dir(path))
	defer unlock()
	return removeStaleLocked(path)
}

func removeStaleLocked(path string) error {
	if err := checkFree(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tandem: socket: replace the socket of a dead process: %w", err)
	}
	return nil
}

// listen makes a socket at path that only the user can connect to.
func listen(path string) (*net.UnixListener, fs.FileInfo, error) {
	// Between binding and listening a socket looks stale, so two workers must
	// not do this at once.
	unlock := lockDir(filepath.Dir(path))
	defer unlock()
	if err := removeStaleLocked(path); err != nil {
		return nil, nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, fmt.Errorf("tandem: socket: %w", err)
	}
	ln.SetUnlinkOnClose(false) // place.remove looks whose it is
	id, err := os.Lstat(path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		ln.Close()
		_ = os.Remove(path)
		return nil, nil, fmt.Errorf("tandem: socket: %w", err)
	}
	return ln, id, nil
}
