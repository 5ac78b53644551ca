//go:build unix && !solaris && !aix

package socket

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
)

// lockWait bounds how long a directory's lock is waited for: it only guards two
// starts at one path from each other, and others may use it for what they like.
const lockWait = time.Second

// lock locks the directory against other processes that begin to listen in it,
// as far as the system allows, and returns what unlocks it. The lock leaves no
// file behind.
func (s *site) lock() (unlock func()) {
	fd := int(s.dir.Fd())
	pauses := drivers.NewBackoff(time.Millisecond, lockWait/8)
	for begin := time.Now(); ; time.Sleep(pauses.Next()) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR || time.Since(begin) > lockWait {
			return func() { _ = unix.Flock(fd, unix.LOCK_UN) }
		}
	}
}

// narrow makes the socket that is about to be bound accessible to its user
// alone, so that it is so from its first moment on. Where the system does not
// do that, chmod follows.
func narrow(_, _ string, conn syscall.RawConn) error {
	return conn.Control(func(fd uintptr) { _ = unix.Fchmod(int(fd), socketMode) })
}
