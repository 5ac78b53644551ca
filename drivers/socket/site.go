package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/internal/sockfile"
)

// site is a place whose directory is held open. Paths are only followed to open
// it: whatever another process makes of them later, names are looked up in the
// directory that was opened. Symbolic links in it are not
// followed.
type site struct {
	place
	uid int // of the worker. A private directory and a socket have to be this user's

	// mu guards the following, and is held while something in dir is changed.
	mu     sync.Mutex
	parent *os.Root    // of a private directory
	root   *os.Root    // the directory, or nil while it is not open
	dir    *os.File    // the same, for the system calls that os.Root lacks
	id     fs.FileInfo // of the worker's socket, or nil while it is not known
}

func newSite(p place, uid int) *site { return &site{place: p, uid: uid} }

func (s *site) name() string { return filepath.Base(s.path) }

// open opens the directory, which has to exist. It does nothing if the
// directory is open.
func (s *site) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openLocked()
}

func (s *site) openLocked() (err error) {
	if s.root != nil {
		return nil
	}
	defer func() {
		if err != nil {
			s.closeLocked()
		}
	}()
	dir := filepath.Dir(s.path)
	if !s.private {
		if s.root, err = os.OpenRoot(dir); err != nil {
			return err
		}
		s.dir, err = s.root.Open(".")
		return err
	}
	if s.parent, err = os.OpenRoot(filepath.Dir(dir)); err != nil {
		return err
	}
	return s.enter(filepath.Base(dir))
}

// make makes the private directory and opens it. It fails if there is anything
// of its name.
func (s *site) make() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Dir(s.path)
	defer func() {
		if err != nil {
			s.closeLocked()
		}
	}()
	if s.parent, err = os.OpenRoot(filepath.Dir(dir)); err != nil {
		return err
	}
	name := filepath.Base(dir)
	if err := s.parent.Mkdir(name, 0o700); err != nil {
		return err
	}
	if err := s.parent.Chmod(name, 0o700); err != nil { // whatever the umask is
		return errors.Join(err, s.parent.Remove(name))
	}
	if err := s.enter(name); err != nil {
		return errors.Join(err, s.parent.Remove(name))
	}
	return nil
}

// enter opens the private directory of this name in parent, if it is one.
func (s *site) enter(name string) error {
	if !privateName.MatchString(name) {
		return fmt.Errorf("%s is not the name of a private directory", name)
	}
	seen, err := s.parent.Lstat(name)
	if err != nil {
		return err
	}
	if seen.Mode().Type() != fs.ModeDir || seen.Mode().Perm() != 0o700 || sockfile.Owner(seen) != s.uid {
		return fmt.Errorf("%w: %s has mode %v and belongs to user %d, expected a directory of mode 0700 and user %d",
			fs.ErrPermission, filepath.Dir(s.path), seen.Mode(), sockfile.Owner(seen), s.uid)
	}
	root, err := s.parent.OpenRoot(name)
	if err != nil {
		return err
	}
	dir, err := root.Open(".")
	if err != nil {
		root.Close()
		return err
	}
	if opened, err := dir.Stat(); err != nil || !os.SameFile(seen, opened) {
		dir.Close()
		root.Close()
		return errors.Join(fmt.Errorf("%w: %s was replaced meanwhile", fs.ErrPermission, filepath.Dir(s.path)), err)
	}
	s.root, s.dir = root, dir
	return nil
}

// close closes the directory, and leaves what is in it.
func (s *site) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked()
}

func (s *site) closeLocked() {
	for _, root := range []*os.Root{s.parent, s.root} {
		if root != nil {
			root.Close()
		}
	}
	if s.dir != nil {
		s.dir.Close()
	}
	s.parent, s.root, s.dir = nil, nil, nil
}

// identify notes which socket is the worker's, if it is there. It fails only for a
// shortage.
func (s *site) identify() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.openLocked(); err != nil {
		if process.IsShortage(err) {
			return process.Shortage(fmt.Errorf("tandem: socket: open the directory of %s: %w", s.path, err))
		}
		return nil
	}
	if info, err := s.root.Lstat(s.name()); err == nil && s.ours(info) == nil {
		s.id = info
	}
	return nil
}

// ours returns an error unless info is that of a socket of the worker's user.
func (s *site) ours(info fs.FileInfo) error {
	switch owner := sockfile.Owner(info); {
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("tandem: socket: %s is a file of mode %v, not a socket: remove it or choose another Driver.Path", s.path, info.Mode())
	case owner != s.uid:
		return fmt.Errorf("tandem: socket: %s is a socket of user %d, expected user %d: remove it or choose another Driver.Path", s.path, owner, s.uid)
	}
	return nil
}

// remove removes the socket, if it is still the one that identify or listen
// has noted, and the private directory.
func (s *site) remove() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.root == nil {
		return
	}
	unlock := s.lock()
	defer unlock()
	// Another worker may have taken the path over. The system uses the number
	// of an inode again soon, so the time of its making counts, too.
	now, err := s.root.Lstat(s.name())
	if err == nil && s.id != nil && os.SameFile(now, s.id) && now.ModTime().Equal(s.id.ModTime()) {
		_ = s.root.Remove(s.name())
	}
	s.removeDir()
}

// removeDir removes the private directory, unless something is in it.
func (s *site) removeDir() {
	if !s.private {
		return
	}
	name := filepath.Base(filepath.Dir(s.path))
	opened, err := s.dir.Stat()
	if err != nil {
		return
	}
	if now, err := s.parent.Lstat(name); err == nil && os.SameFile(now, opened) {
		_ = s.parent.Remove(name) // fails unless it is empty
	}
}

// discard removes what a worker that could not be started has left.
func (s *site) discard() {
	if s.open() != nil {
		return
	}
	s.removeDead(0)
	s.close()
}

// removeDead removes the socket and the private directory of a worker that has
// ended, if that was at least age ago.
func (s *site) removeDead(age time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.openLocked() != nil {
		return
	}
	unlock := s.lock()
	defer unlock()
	info, err := s.root.Lstat(s.name())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// A worker that starts has such a directory, too.
		if info, err := s.dir.Stat(); err == nil && (age == 0 || time.Since(info.ModTime()) > emptyAge) {
			s.removeDir()
		}
	case err == nil && (age == 0 || time.Since(info.ModTime()) >= age) && s.checkFreeLocked() == nil:
		if s.root.Remove(s.name()) == nil {
			s.removeDir()
		}
	}
}

// checkFree returns nil if a worker can listen here: there is nothing, or the
// socket of a process that has ended.
func (s *site) checkFree() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checkFreeLocked()
}

func (s *site) checkFreeLocked() error {
	info, err := s.root.Lstat(s.name())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("tandem: socket: %s: %w", s.path, err)
	}
	if err := s.ours(info); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), helloTimeout)
	defer cancel()
	conn, err := s.dialLocked(ctx)
	if err == nil {
		conn.Close()
	}
	if process.IsShortage(err) {
		return fmt.Errorf("tandem: socket: does a process listen at %s: %w", s.path, err)
	}
	if !sockfile.NobodyListens(err) && !errors.Is(err, fs.ErrNotExist) {
		why := any("it took a connection")
		if err != nil {
			why = err
		}
		return fmt.Errorf("tandem: socket: %s is in use: a process listens there (%v): end it or choose another Driver.Path", s.path, why)
	}
	return nil
}

// dial connects to the socket.
func (s *site) dial(ctx context.Context) (netConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.openLocked(); err != nil {
		return nil, fmt.Errorf("tandem: socket: dial %s: %w", s.path, err)
	}
	return s.dialLocked(ctx)
}

func (s *site) dialLocked(ctx context.Context) (netConn, error) {
	target, release, err := sockfile.DialName(s.dir, s.name(), s.path)
	if err == nil {
		defer release()
		var conn net.Conn
		if conn, err = new(net.Dialer).DialContext(ctx, "unix", target); err == nil {
			return conn.(netConn), nil
		}
		err = sockfile.WithoutAddress(err)
	}
	return nil, fmt.Errorf("tandem: socket: dial %s: %w", s.path, err)
}

// socketMode lets only the user connect.
const socketMode = 0o600

// listen makes a socket here that only the user can connect to.
func (s *site) listen() (_ *net.UnixListener, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.openLocked(); err != nil {
		return nil, fmt.Errorf("tandem: socket: listen at %s: %w", s.path, err)
	}
	// Between binding and listening a socket looks as if its process had ended,
	// so two workers must not do this at once.
	unlock := s.lock()
	defer unlock()
	if err := s.checkFreeLocked(); err != nil {
		return nil, err
	}
	if err := s.root.Remove(s.name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("tandem: socket: replace the socket of a process that has ended: %w", err)
	}
	config := net.ListenConfig{Control: narrow}
	l, err := config.Listen(context.Background(), "unix", sockfile.BindName(s.dir, s.name(), s.path))
	if err != nil {
		return nil, fmt.Errorf("tandem: socket: listen at %s: %w", s.path, sockfile.WithoutAddress(err))
	}
	ln := l.(*net.UnixListener)
	ln.SetUnlinkOnClose(false) // remove looks first whose it is
	// Where there is no name for a directory's descriptor, the path was followed
	// again: the socket has to be where it was meant to be.
	info, err := s.root.Lstat(s.name())
	if err == nil {
		err = s.ours(info)
	}
	if err == nil && info.Mode().Perm() != socketMode {
		if err = s.root.Chmod(s.name(), socketMode); err != nil { // whatever the umask is
			_ = s.root.Remove(s.name())
		}
	}
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("tandem: socket: listen at %s: %w", s.path, err)
	}
	s.id = info
	return ln, nil
}
