//go:build linux

package worker_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// testProgram is the name under which this program is the test worker.
const testProgram = "test-program"

func init() {
	programs[testProgram] = func() error { return serveTest(worker.NewServer()) }
}

// A command that is meant for one process is refused, with what to do instead.
func TestCommandOfOneProcess(t *testing.T) {
	started := exec.Command("/bin/true")
	require.NoError(t, started.Run())
	withContext := exec.CommandContext(t.Context(), "/bin/true")
	cancelOnly := exec.Command("/bin/true")
	cancelOnly.Cancel = func() error { return nil }
	in, out, stderr := exec.Command("/bin/true"), exec.Command("/bin/true"), exec.Command("/bin/true")
	for _, pipe := range []func() error{
		func() error { _, err := in.StdinPipe(); return err },
		func() error { _, err := out.StdoutPipe(); return err },
		func() error { _, err := stderr.StderrPipe(); return err },
	} {
		require.NoError(t, pipe())
	}
	withPidFD := exec.Command("/bin/true")
	withPidFD.SysProcAttr = &syscall.SysProcAttr{PidFD: new(int)}
	for cmd, want := range map[*exec.Cmd]string{
		started: "has been started already, as process ", withContext: "exec.CommandContext", cancelOnly: "exec.CommandContext",
		in: "StdinPipe", out: "StdoutPipe", stderr: "StderrPipe", withPidFD: "PidFD",
	} {
		for _, s := range spawners {
			_, err := s.spawn(t.Context(), cmd)
			require.ErrorContains(t, err, want, s.name)
		}
		_, err := pool.New(t.Context(), 2, cmd, socket.Driver{})
		require.ErrorContains(t, err, want)
	}
	for _, cmd := range []*exec.Cmd{in, out, stderr} {
		require.NoError(t, cmd.Run(), "which closes its pipes")
	}
	for _, start := range []func(){
		func() { _, _ = worker.Start(t.Context(), nil) },
		func() { _, _ = pool.New(t.Context(), 1, nil, socket.Driver{}) },
	} {
		require.PanicsWithValue(t, "tandem: the command of a worker is nil", start)
	}
}

// What is like them but serves any number of processes is taken.
func TestCommandOfManyProcesses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	self := worker.Self("talker")
	cmd := exec.CommandContext(ctx, self.Path)
	cmd.Args, cmd.Cancel = self.Args, nil // the context means nothing
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdout = w
	c, err := worker.Start(t.Context(), cmd)
	require.NoError(t, err)
	cancel()
	_, err = talk.Call(t.Context(), c, "one line")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, w.Close())
	var out bytes.Buffer
	_, err = out.ReadFrom(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Contains(t, out.String(), "one line\n")
}

// A worker that is started again is the same program, in the same directory, though
// the host has gone to another one.
func TestRelativeCommand(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	require.NoError(t, os.Symlink(self, filepath.Join(dir, testProgram)))
	require.NoError(t, os.Symlink("/usr", filepath.Join(dir, "link")))
	for _, cmd := range []*exec.Cmd{
		{Path: "./" + testProgram}, {Path: testProgram}, {Path: "../" + testProgram, Dir: "sub"},
		{Path: "bin/env", Args: []string{"env", filepath.Join(dir, testProgram)}, Dir: "link/../usr"},
	} {
		t.Chdir(dir)
		c, err := worker.Start(t.Context(), cmd, worker.WithRestart(worker.Restart{Delay: time.Millisecond}))
		require.NoError(t, err, cmd.Path)
		p, err := pool.New(t.Context(), 1, cmd, socket.Driver{}, pool.WithWorkers(worker.WithRestart(worker.Restart{Delay: time.Millisecond})))
		require.NoError(t, err)
		t.Chdir("/")
		for range 2 {
			first, err := safePID.Call(t.Context(), c, 0)
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
			eventually(t, "it is another process", func() bool {
				next, err := safePID.Call(t.Context(), c, 0)
				return err == nil && next != first
			})
			first, err = safePID.Call(t.Context(), p, 0)
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
			eventually(t, "it is another process", func() bool {
				next, err := safePID.Call(t.Context(), p, 0)
				return err == nil && next != first
			})
		}
		require.NoError(t, c.Close())
		require.NoError(t, p.Close())
	}
}
