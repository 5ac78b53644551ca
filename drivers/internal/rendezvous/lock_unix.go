//go:build unix && !solaris && !aix

package rendezvous

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
)

// lockWait bounds how long a lock is waited for. Its holders need it for a moment. Tests change it.
var lockWait = 10 * time.Second

// lock waits until this process is the only one that may take or free the name, and returns what
// ends that. See the proof in the documentation of the package.
func (s *site) lock() (unlock func(), err error) {
	name := s.name() + lockSuffix
	pauses := drivers.NewBackoff(time.Millisecond, 50*time.Millisecond)
	for begin := time.Now(); ; time.Sleep(pauses.Next()) {
		fd, err := s.tryLock(name)
		switch {
		case err == nil:
			return func() {
				_ = unix.Unlinkat(int(s.dir.Fd()), name, 0) // while it is still locked
				unix.Close(fd)
			}, nil
		case err == unix.EWOULDBLOCK, err == unix.EINTR, err == errReplaced, err == unix.EACCES && s.giveBack(name):
			if time.Since(begin) < lockWait {
				continue
			}
			return nil, fmt.Errorf("%w: another process holds the lock %s: %w", ErrServed, s.path+lockSuffix, err)
		default:
			return nil, fmt.Errorf("lock %s: %w", s.path+lockSuffix, err)
		}
	}
}

// errReplaced: the lock was of a file that has its name no longer.
var errReplaced = errors.New("tandem: the lock's file was replaced")

// tryLock locks the file, which it makes if need be. The lock counts only if the file still has
// its name then.
func (s *site) tryLock(name string) (fd int, err error) {
	fd, err = unix.Openat(int(s.dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return -1, err
	}
	var opened, named unix.Stat_t
	if err = unix.Fstat(fd, &opened); err == nil {
		switch {
		case opened.Mode&unix.S_IFMT != unix.S_IFREG:
			err = fmt.Errorf("it is no regular file: remove it")
		case int(opened.Uid) != os.Geteuid():
			err = fmt.Errorf("%w: it belongs to user %d, expected user %d: remove it", ErrNotAllowed, opened.Uid, os.Geteuid())
		case opened.Nlink > 1:
			err = fmt.Errorf("%w: it has another name, too: remove it", ErrNotAllowed)
		default:
			if opened.Mode&0o777 != 0o600 { // whatever the umask is
				_ = unix.Fchmod(fd, 0o600)
			}
			err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		}
	}
	if err == nil {
		err = unix.Fstatat(int(s.dir.Fd()), name, &named, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT || err == nil && (named.Dev != opened.Dev || named.Ino != opened.Ino) {
			err = errReplaced
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// giveBack is called if the file could not be opened. It gives the file the mode that the umask of the process
// that has just made it has taken away, and reports whether another attempt may succeed.
func (s *site) giveBack(name string) bool {
	var st unix.Stat_t
	err := unix.Fstatat(int(s.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT: // it is gone, or could not be made
		return unix.Faccessat(int(s.dir.Fd()), ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS) == nil
	case err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Nlink > 1:
		return false
	case st.Mode&0o600 != 0o600:
		_ = s.root.Chmod(name, 0o600)
	}
	return true
}
