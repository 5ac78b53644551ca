//go:build linux

package worker_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// What bounds a worker's process bounds the ones after it, too.
func TestRestartKeepsResources(t *testing.T) {
	twoDrivers(t, func(t *testing.T, s spawner) {
		w, err := s.spawn(t.Context(), worker.Self("mirror"), worker.WithRestart(atOnce),
			worker.WithMaxFiles(60), worker.WithMaxMemory(1<<30), worker.WithMaxCPU(1), worker.WithoutCoreDumps())
		require.NoError(t, err)
		defer w.Close()
		first, err := mirror.Call(t.Context(), w, "")
		require.NoError(t, err)
		for range 2 {
			before := w.PID()
			require.NoError(t, syscall.Kill(before, syscall.SIGKILL))
			eventually(t, "another process", func() bool { return w.PID() != before })
			r, err := mirror.Call(t.Context(), w, "")
			require.NoError(t, err)
			require.EqualValues(t, 60, r.Files.Max)
			require.Equal(t, first.Memory, r.Memory)
			require.NotZero(t, r.Memory.Max)
			require.Equal(t, first.MemoryLimit, r.MemoryLimit)
			require.Equal(t, 1, r.CPUs)
			require.Equal(t, 1, r.Procs)
			require.Zero(t, r.Core.Max)
		}
	})
}

func TestRestartKeepsOutput(t *testing.T) {
	twoDrivers(t, func(t *testing.T, s spawner) {
		c := newCapture()
		w, err := s.spawn(t.Context(), worker.Self("talker"), worker.WithRestart(atOnce), worker.WithOutput(c.log))
		require.NoError(t, err)
		defer w.Close()
		pids := []int{w.PID()}
		require.NoError(t, syscall.Kill(pids[0], syscall.SIGKILL))
		eventually(t, "another process", func() bool { return w.PID() != pids[0] })
		pids = append(pids, w.PID())
		_, err = talk.Call(t.Context(), w, "from the second")
		require.NoError(t, err)
		require.NoError(t, w.Close())
		for _, pid := range pids {
			r := c.with(t, fmt.Sprintf("hello from %d", pid))
			require.EqualValues(t, pid, r["pid"])
		}
		require.EqualValues(t, pids[1], c.with(t, "from the second")["pid"])
	})
}

// replaceable returns a worker's command and its checksum, and what puts another
// program in the place of its own.
func replaceable(t *testing.T) (cmd *exec.Cmd, sum [32]byte, replace func()) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.Symlink(self, path)) // a copy could be busy while another test forks
	return &exec.Cmd{Path: path, Args: worker.Self("test").Args}, checksum(t, self), func() {
		other := path + ".new"
		require.NoError(t, os.Symlink("/bin/sh", other))
		require.NoError(t, os.Rename(other, path))
	}
}

// A program that is another one by now is not tried again.
func TestRestartOfAnotherProgram(t *testing.T) {
	twoDrivers(t, func(t *testing.T, s spawner) {
		cmd, sum, replace := replaceable(t)
		var r recorder
		w, err := s.spawn(t.Context(), cmd, worker.WithChecksum(sum), worker.WithRestart(atOnce), r.option())
		require.NoError(t, err)
		defer w.Close()
		replace()
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
		var other *ipc.ChecksumError
		require.ErrorAs(t, r.await(t, worker.EventGaveUp, 2).Err, &other)
		require.Equal(t, sum, other.Want)
		eventually(t, "calls know", func() bool {
			_, err = add.Call(t.Context(), w, pair{1, 2})
			return err != nil
		})
		require.ErrorAs(t, err, &other)
		require.ErrorIs(t, err, ipc.ErrPeerGone)
		require.ErrorAs(t, w.Close(), new(*worker.ExitError))
		require.Equal(t, []worker.EventKind{
			worker.EventStarted, worker.EventReady, worker.EventExited, worker.EventRestarting, worker.EventExited, worker.EventGaveUp,
		}, r.kinds())
	})
}

func TestPoolOfAnotherProgram(t *testing.T) {
	cmd, sum, replace := replaceable(t)
	var r recorder
	p, err := pool.New(t.Context(), 1, cmd, socket.Driver{}, pool.WithWorkers(worker.WithChecksum(sum), worker.WithRestart(atOnce), r.option()))
	require.NoError(t, err)
	defer p.Close()
	replace()
	require.NoError(t, syscall.Kill(p.Clients()[0].PID(), syscall.SIGKILL))
	var other *ipc.ChecksumError
	require.ErrorAs(t, r.await(t, worker.EventGaveUp, 2).Err, &other)
	_, err = add.Call(t.Context(), p, pair{1, 2})
	require.ErrorAs(t, err, &other)
}
