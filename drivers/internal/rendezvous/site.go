package rendezvous

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/internal/sockfile"
)

// site is the path of a socket whose directory is held open: names are looked up in the
// directory that was opened, and symbolic links in it are not followed.
type site struct {
	path string // absolute
	root *os.Root
	dir  *os.File // the same, for the system calls that os.Root lacks
}

func openSite(path string) (*site, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	return &site{path, root, dir}, nil
}

func (s *site) name() string { return filepath.Base(s.path) }

func (s *site) close() {
	s.root.Close()
	s.dir.Close()
}

// listen makes a socket here with this mode and listens.
func (s *site) listen(mode fs.FileMode) (_ *net.UnixListener, id fs.FileInfo, err error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	if err := s.free(); err != nil {
		return nil, nil, err
	}
	target := s.path
	if len(target) > sockfile.MaxPath {
		target = sockfile.BindName(s.dir, s.name(), s.path)
	}
	if len(target) > sockfile.MaxPath {
		return nil, nil, fmt.Errorf("%w: the path %s has %d bytes, largest allowed %d", ErrBadName, s.path, len(s.path), sockfile.MaxPath)
	}
	bound := false
	ln, err := bindAndListen(target, mode, func() error {
		bound = true
		// The umask may have taken rights away. The path was followed again: the socket has to be where it
		// was meant to be.
		if err := s.root.Chmod(s.name(), mode); err != nil {
			return err
		}
		id, err = s.root.Lstat(s.name())
		if err == nil && !mine(id) {
			err = fmt.Errorf("%w: its directory was replaced meanwhile", ErrNotAllowed)
		}
		return err
	})
	if err != nil {
		if now, _ := s.root.Lstat(s.name()); bound && now != nil && mine(now) {
			_ = s.root.Remove(s.name())
		}
		return nil, nil, err
	}
	return ln, id, nil
}

// mine reports whether info is that of a socket of this user's.
func mine(info fs.FileInfo) bool {
	return info.Mode().Type() == fs.ModeSocket && sockfile.Owner(info) == os.Geteuid()
}

// free makes the name free, if it is not in use: it removes the socket of a process that has ended.
// The lock is held.
func (s *site) free() error {
	info, err := s.root.Lstat(s.name())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%w: it is a file of mode %v: remove it or choose another name", ErrNotSocket, info.Mode())
	case !mine(info):
		return fmt.Errorf("%w: the socket there belongs to user %d, expected user %d: remove it or choose another name", ErrNotAllowed, sockfile.Owner(info), os.Geteuid())
	}
	switch err := s.look(); {
	case err == nil:
		return served(s.path)
	case errors.Is(err, fs.ErrNotExist): // it was closed meanwhile
		return nil
	case !sockfile.NobodyListens(err):
		return fmt.Errorf("does a process listen there: %w", process.Shortage(err))
	}
	if err := s.root.Remove(s.name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace the socket of a process that has ended: %w", err)
	}
	return nil
}

// look returns nil if a process has the socket here, an error that is ECONNREFUSED if none has, an
// fs.ErrNotExist if there is no socket, and any other error if it cannot tell. The process does not
// notice.
func (s *site) look() error {
	target, release, err := sockfile.DialName(s.dir, s.name(), s.path)
	if err != nil {
		return err
	}
	defer release()
	return lookAt(target)
}

// served returns the error for a name at which another process listens.
func served(target string) error {
	if peer, err := who(target); err == nil && peer.PID != 0 {
		return fmt.Errorf("already served by process %d: %w", peer.PID, ErrServed)
	}
	return fmt.Errorf("already served by another process: %w", ErrServed)
}
