//go:build linux

package socket_test

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/socket"
)

func TestDetachedWorkerHasASession(t *testing.T) {
	h := spawn(t, socket.Driver{Detached: true}, "echo", "")
	sid, err := unix.Getsid(h.Process().PID())
	require.NoError(t, err)
	require.Equal(t, h.Process().PID(), sid)

	h = spawn(t, socket.Driver{}, "echo", "")
	sid, err = unix.Getsid(h.Process().PID())
	require.NoError(t, err)
	require.NotEqual(t, h.Process().PID(), sid)
}

func TestDetachedWorkerOutlivesItsHost(t *testing.T) {
	// A worker whose host is gone becomes a child of this process, which has to
	// reap it, instead of a child of init.
	require.NoError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	arg := filepath.Join(t.TempDir(), "x")
	hostProcess, line := helper(t, "host-detached", arg)
	pid, err := strconv.Atoi(line)
	require.NoError(t, err)
	started := process.StartTime(pid)
	require.NotZero(t, started)
	require.NoError(t, hostProcess.Process.Kill())
	_ = hostProcess.Wait()

	c := dialRaw(t, arg+".sock")
	sendHello(t, c)
	hello, err := drivers.ReadHello(c)
	require.NoError(t, err)
	require.Equal(t, pid, hello.PID)
	require.Equal(t, started, process.StartTime(pid))
	require.NoError(t, c.Close())
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	_, err = syscall.Wait4(pid, nil, 0, nil)
	require.NoError(t, err)
}

func TestAttachedWorkerSeesItsHostDie(t *testing.T) {
	require.NoError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	arg := filepath.Join(t.TempDir(), "x")
	hostProcess, line := helper(t, "host", arg)
	pid, err := strconv.Atoi(line)
	require.NoError(t, err)
	require.NoError(t, hostProcess.Process.Kill())
	_ = hostProcess.Wait()
	_, err = syscall.Wait4(pid, nil, 0, nil)
	require.NoError(t, err)
	b, err := os.ReadFile(arg)
	require.NoError(t, err)
	require.Equal(t, "true tandem: disconnected: the host has closed the connection", string(b))
	_, err = os.Lstat(arg + ".sock")
	require.ErrorIs(t, err, os.ErrNotExist, "the worker removes its file")
}
