//go:build linux

package socket

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/sockfile"
)

const (
	MaxPath   = sockfile.MaxPath
	MaxBuffer = maxBuffer
)

func (c Connect) Delays() func(int) time.Duration { return c.delays() }

func CheckUser(uid int, allowed ...int) error { return credentials{UID: uid}.checkUser(allowed...) }

func CheckProcess(pid int, allowed ...int) error {
	return credentials{PID: pid}.checkProcess(allowed...)
}

// SetHelloTimeout changes how long a hello may take, until the test ends.
func SetHelloTimeout(t *testing.T, d time.Duration) {
	old := helloTimeout
	helloTimeout = d
	t.Cleanup(func() { helloTimeout = old })
}

// Pair returns both ends of a link within this process.
func Pair(t testing.TB, limit int) (host, worker drivers.Link) {
	a, b := ConnPair(t)
	return LinkOf(t, a, limit, false), LinkOf(t, b, limit, true)
}

// LinkOf makes a link of a connection over which no hellos were exchanged.
func LinkOf(t testing.TB, c *net.UnixConn, limit int, worker bool) drivers.Link {
	s := hostSide
	if worker {
		s = workerSide
	}
	l, err := newLink(c, drivers.Hello{MaxMessage: limit}, drivers.Hello{MaxMessage: limit}, s)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// HoldSender holds the lock of the senders of a link until release is called, which ends as
// a Send does. Other senders combine their frames with it, though there may be no
// room for them.
func HoldSender(t testing.TB, l drivers.Link) (release func()) {
	require.True(t, l.(*link).writer.lock.TryLock())
	l.(*link).writer.stalled.Store(false)
	return l.(*link).unlock
}

// ConnPair returns a connected pair.
func ConnPair(t testing.TB) (a, b *net.UnixConn) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	conns := [2]*net.UnixConn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		f.Close()
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return conns[0], conns[1]
}

// Alive tells whether either side has ended the link.
func (l *link) Alive() bool { return l.alive() }

// Address is where the worker listens, or has listened.
func (c *Channel) Address() string { return c.site.path }

// CleanUpAgain makes the next start of a detached worker clean up.
func CleanUpAgain() {
	cleaned.Lock()
	defer cleaned.Unlock()
	cleaned.last = time.Time{}
}

// Look returns what Next puts into a frame.
func Look(l drivers.Link) (f drivers.Frame, ok bool, err error) {
	ok, err = l.Next(&f)
	return f, ok, err
}
