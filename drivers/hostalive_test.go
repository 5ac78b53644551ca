//go:build linux

package drivers

import (
	"io"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Where the system has no room in Go's poller, as for a number that is in it already, the
// worker still sees the end of its host, and not sooner.
func TestHostAliveWithoutThePoller(t *testing.T) {
	var fds [2]int
	require.NoError(t, syscall.Pipe2(fds[:], syscall.O_CLOEXEC))
	first := hostAliveFile(fds[0])
	f := hostAliveFile(fds[0])
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[0]), syscall.F_GETFL, 0)
	require.Zero(t, errno)
	require.Zero(t, flags&syscall.O_NONBLOCK, "a read would end at once")
	ended := make(chan error)
	go func() {
		_, err := f.Read(make([]byte, 1))
		ended <- err
	}()
	require.NoError(t, syscall.Close(fds[1]))
	require.Equal(t, io.EOF, <-ended)
	require.NoError(t, f.Close())
	require.ErrorIs(t, first.Close(), syscall.EBADF)
}
