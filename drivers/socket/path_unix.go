//go:build unix && !solaris && !aix

package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockWait bounds how long a directory's lock is waited for: it only guards two
// starts at one path from each other, and others may use it for what they like.
const lockWait = time.Second

// lockDir locks a directory against other workers that begin to listen in it,
// as far as the system allows, and returns what unlocks it. The lock leaves no
// file behind.
func lockDir(dir string) (unlock func()) {
	f, err := os.Open(dir)
	if err != nil {
		return func() {}
	}
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR || wait > lockWait {
			return func() { f.Close() }
		}
		time.Sleep(wait)
	}
}

func nobodyListens(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// giveTo makes dir belong to the user that the worker will run as.
func giveTo(attr *syscall.SysProcAttr, dir string) error {
	if attr == nil || attr.Credential == nil {
		return nil
	}
	if err := os.Chown(dir, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
		return fmt.Errorf("give it to the worker's user: %w", err)
	}
	return nil
}

// workerUID returns the user that the worker runs as.
func workerUID(attr *syscall.SysProcAttr) int {
	if attr != nil && attr.Credential != nil {
		return int(attr.Credential.Uid)
	}
	return os.Geteuid()
}

func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
