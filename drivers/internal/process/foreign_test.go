//go:build linux

package process

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// A process that has been reaped is not signalled: its number may be another's.
func TestForeignAfterReaping(t *testing.T) {
	cmd := exec.Command("cat")
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	pid := cmd.Process.Pid
	started := StartTime(pid)

	// A recycled number: there is a process, and it is another one.
	var gone *GoneError
	_, err = Find(pid, started-1, "cat")
	require.ErrorAs(t, err, &gone)
	require.Equal(t, started, gone.Now)

	p, err := Find(pid, started, "cat")
	require.NoError(t, err)
	defer p.Close()
	other, err := Find(pid, started, "cat")
	require.NoError(t, err)
	other.Close()
	require.ErrorIs(t, other.Signal(syscall.SIGKILL), os.ErrProcessDone, "after Close nobody knows whose number it is")
	require.NoError(t, syscall.Kill(pid, 0), "it lives")

	require.NoError(t, p.Signal(syscall.SIGKILL))
	require.Error(t, cmd.Wait())
	<-p.Done()
	require.Equal(t, ipc.ExitUnknown, p.Exit().Code)
	require.ErrorIs(t, p.Signal(syscall.SIGKILL), os.ErrProcessDone)
	_, err = Find(pid, started, "cat")
	require.ErrorAs(t, err, &gone)
	require.True(t, errors.Is(err, ipc.ErrPeerGone))
	require.Zero(t, gone.Now)
}
