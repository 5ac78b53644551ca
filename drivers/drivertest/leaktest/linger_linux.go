package leaktest

import (
	"net"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Lingering returns a socket whose last close blocks for minutes, or until release is called: it has bytes to send
// to somebody who reads nothing. The caller closes it, while others have it still or after release.
func Lingering(t testing.TB) (f *os.File, release func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	reader, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).SetLinger(300))
	raw, err := c.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	var full error
	chunk := make([]byte, 64<<10)
	require.NoError(t, raw.Control(func(fd uintptr) {
		for full == nil {
			_, full = unix.Write(int(fd), chunk)
		}
	}))
	require.ErrorIs(t, full, unix.EAGAIN)
	f, err = c.(*net.TCPConn).File()
	require.NoError(t, err)
	require.NoError(t, c.Close()) // f has it still
	release = sync.OnceFunc(func() { reader.Close() })
	t.Cleanup(release)
	return f, release
}
