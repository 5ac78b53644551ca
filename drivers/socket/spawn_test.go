//go:build linux

package socket_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

func TestZeroDriverIsUsefulAndRegistered(t *testing.T) {
	d := socket.Driver{}
	require.Equal(t, "socket", d.Name())
	require.Equal(t, drivers.Capabilities{Reconnect: true, Detach: true}, d.Capabilities())
	a, ok := drivers.Find("socket")
	require.True(t, ok)
	require.Equal(t, "socket", a.Name())

	h := spawn(t, d, "echo", "")
	require.True(t, h.Connected())
	h.works()
	require.Equal(t, h.Process().PID(), h.link().Peer().PID)
	require.Panics(t, func() { h.Links(func(drivers.Link) {}) })
}

func TestNoFileWhileTheWorkerLivesOrIsKilled(t *testing.T) {
	h := spawn(t, socket.Driver{}, "echo", "")
	require.Empty(t, tmpFiles(t), "while the worker lives")
	require.NoError(t, h.Disconnect())
	require.NoError(t, h.Reconnect(h.ctx), "the socket has no name any more and can be dialled")
	h.works()
	h.kill()
	require.Empty(t, tmpFiles(t), "after SIGKILL")
}

func TestPrivateDirectoryOfADetachedWorker(t *testing.T) {
	h := spawn(t, socket.Driver{Detached: true}, "echo", "")
	dirs := tmpFiles(t)
	require.Len(t, dirs, 1)
	info, err := os.Stat(dirs[0])
	require.NoError(t, err)
	require.Equal(t, os.ModeDir|0o700, info.Mode())
	info, err = os.Stat(filepath.Join(dirs[0], "s"))
	require.NoError(t, err)
	require.Equal(t, os.ModeSocket|0o600, info.Mode())
	h.kill()
	eventually(t, "the host removes what a killed worker could not", func() bool { return len(tmpFiles(t)) == 0 })
}

func TestLongTMPDIRFallsBack(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	require.NoError(t, os.Mkdir(long, 0o700))
	t.Setenv("TMPDIR", long)
	h := spawn(t, socket.Driver{Detached: true}, "echo", "")
	require.Regexp(t, "^/tmp/tandem-[a-z0-9]{26}/s$", h.Address())
	require.FileExists(t, h.Address())
	require.NoError(t, h.Disconnect())
	require.NoError(t, h.Reconnect(h.ctx))
	h.works()
	h.kill()
	require.NoError(t, h.Close())
	require.NoDirExists(t, filepath.Dir(h.Address()))
}

func TestPathTooLong(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("p", socket.MaxPath-len(dir)-1))
	require.Len(t, path, socket.MaxPath)
	spawn(t, socket.Driver{Path: path}, "echo", "").works()

	cmd := command(t, "echo", "")
	_, err := socket.Driver{Path: path + "p"}.Spawn(testContext(t), cmd)
	require.ErrorContains(t, err, "has 108 bytes, largest allowed 107")
	require.Nil(t, cmd.Cmd.Process, "nothing was started")
}

func TestPathIsMadeAbsolute(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	cmd := command(t, "echo", "")
	cmd.Cmd.Dir = "/"
	ch, err := socket.Driver{Path: "relative"}.Spawn(testContext(t), cmd)
	require.NoError(t, err)
	_, err = os.Lstat(filepath.Join(dir, "relative"))
	require.NoError(t, err)
	require.NoError(t, ch.Process().Signal(syscall.SIGKILL))
	<-ch.Process().Done()
	require.NoError(t, ch.Close())
	_, err = os.Lstat(filepath.Join(dir, "relative"))
	require.ErrorIs(t, err, os.ErrNotExist, "Close after the worker's end removes the file")
}

func TestPathInUse(t *testing.T) {
	dir := t.TempDir()
	refused := func(path, want string) {
		t.Helper()
		cmd := command(t, "echo", "")
		_, err := socket.Driver{Path: path}.Spawn(testContext(t), cmd)
		require.ErrorContains(t, err, want)
		require.Nil(t, cmd.Cmd.Process, "nothing was started")
	}
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("precious"), 0o600))
	refused(file, "not a socket")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))

	refused(filepath.Join(dir, "none", "s"), "no such file")
	refused(filepath.Join(file, "s"), "not a directory")

	path := filepath.Join(dir, "s")
	h := spawn(t, socket.Driver{Path: path}, "echo", "")
	refused(path, "in use")
	h.works()
	h.kill()

	// What a dead process left is replaced.
	eventually(t, "the host removes the file", func() bool { _, err := os.Lstat(path); return os.IsNotExist(err) })
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	require.NoError(t, err)
	ln.SetUnlinkOnClose(false)
	require.NoError(t, ln.Close())
	h = spawn(t, socket.Driver{Path: path}, "echo", "")
	require.NoError(t, h.Disconnect())
	require.NoError(t, h.Reconnect(h.ctx))
	h.works()
}

func TestTwoStartsAtOnePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	type result struct {
		ch  *socket.Channel
		err error
	}
	results := make(chan result)
	for range 2 {
		cmd := command(t, "echo", "")
		go func() {
			ch, err := socket.Driver{Path: path}.Spawn(testContext(t), cmd)
			results <- result{ch, err}
		}()
	}
	started := 0
	var channels []*socket.Channel
	for range 2 {
		if r := <-results; r.err == nil {
			started++
			channels = append(channels, r.ch)
		} else {
			require.ErrorContains(t, r.err, "in use")
		}
	}
	require.Equal(t, 1, started)
	ch := channels[0]
	require.NoError(t, ch.Disconnect())
	require.NoError(t, ch.Reconnect(testContext(t)), "the loser has left the winner's socket alone")
	_ = ch.Process().Signal(syscall.SIGKILL)
	<-ch.Process().Done()
	require.NoError(t, ch.Close())
}

func TestStartErrors(t *testing.T) {
	ctx := testContext(t)
	start := func(ctx context.Context, mode, arg string) error {
		ch, err := socket.Driver{}.Spawn(ctx, command(t, mode, arg))
		require.Error(t, err)
		require.Nil(t, ch)
		require.Empty(t, tmpFiles(t))
		return err
	}
	err := start(ctx, "exit", "")
	var exit *ipc.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 7, exit.Code)
	require.Contains(t, err.Error(), "the disk is on fire")

	short, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, start(short, "silent", ""), context.Canceled)

	cmd := command(t, "echo", "")
	cmd.Cmd = exec.Command("/no/such/program")
	_, err = socket.Driver{}.Spawn(ctx, cmd)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Empty(t, tmpFiles(t))

	cmd = command(t, "echo", "")
	cmd.Startup.MaxMessage = 100
	_, err = socket.Driver{}.Spawn(ctx, cmd)
	require.ErrorContains(t, err, "100 bytes")
}

func TestSilentWorkerEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	cmd := command(t, "silent", "")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd.Cmd.Stdout = w
	cmd.Cmd.ExtraFiles = []*os.File{w} // the user's come first and keep their numbers
	go func() {
		_, _ = r.Read(make([]byte, 100)) // the worker runs
		cancel()
	}()
	_, err = socket.Driver{}.Spawn(ctx, cmd)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, w.Close())
	b := make([]byte, 1)
	_, err = r.Read(b)
	require.Error(t, err, "the worker is dead and holds the pipe no more")
	require.NoError(t, r.Close())
	require.Empty(t, tmpFiles(t))
}

func TestHelloMismatch(t *testing.T) {
	ctx := testContext(t)
	for _, c := range []struct{ mode, arg, what, local, remote string }{
		{"hello", "layout", "layout version", "1", "99"},
		{"hello", "version", "protocol version", strconv.Itoa(drivers.ProtocolVersion), "99"},
		{"hello", "driver", "driver", "socket", "carrier pigeon"},
		{"codec", "", "codec", "cbor", "json"},
	} {
		cmd := command(t, c.mode, c.arg)
		stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
		require.NoError(t, err)
		cmd.Cmd.Stderr = stderr
		_, err = socket.Driver{}.Spawn(ctx, cmd)
		var m *ipc.MismatchError
		require.ErrorAs(t, err, &m, c.what)
		require.Equal(t, ipc.MismatchError{What: c.what, Local: c.local, Remote: c.remote}, *m)
		// The worker knows as well, with the sides turned round.
		said, err := os.ReadFile(stderr.Name())
		require.NoError(t, err)
		require.Contains(t, string(said), "this side has "+c.remote+", the other side has "+c.local)
		require.NoError(t, stderr.Close())
		require.Empty(t, tmpFiles(t))
	}
}
