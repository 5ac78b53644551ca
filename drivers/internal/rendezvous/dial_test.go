//go:build linux

package rendezvous

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ipc"
)

// full makes a listener whose queue is full.
func full(t *testing.T, path string) (l *Listener) {
	l = listen(t, path)
	f, err := l.File()
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.Listen(int(f.Fd()), 0))
	for {
		conn, _, err := connectOnce(path)
		if errors.Is(err, errFull) {
			return l
		}
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
	}
}

// Who finds the queue full waits until there is room, or the context ends.
func TestDialWaitsForRoom(t *testing.T) {
	path := socketIn(t)
	l := full(t, path)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(testContext(t))
	done := make(chan error, 1)
	go func() {
		_, _, err := Dial(ctx, path, DialOptions{})
		done <- err
	}()
	_, err := Listen(path, ListenOptions{})
	require.ErrorIs(t, err, ErrServed, "also then")
	require.ErrorContains(t, err, "already served by another process")
	require.Empty(t, done)
	cancel(cause)
	require.ErrorIs(t, <-done, cause)

	got := make(chan error, 1)
	go func() {
		conn, _, err := Dial(testContext(t), path, DialOptions{})
		if err == nil {
			defer conn.Close()
			if said := answer(conn); said != "welcome" {
				err = errors.New(said)
			}
		}
		got <- err
	}()
	serveEcho(t, l, Gate{})
	require.NoError(t, <-got)
}

func TestDialWithoutTime(t *testing.T) {
	l := listen(t, socketIn(t))
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	_, _, err := Dial(ctx, l.Path(), DialOptions{})
	require.ErrorIs(t, err, cause)
}

// Errors of Dial say which kind of failure it was, and only one.
func TestDialErrors(t *testing.T) {
	dir := tempDir(t)
	dead(t, dir+"/dead")
	touch(t, dir+"/file")
	bound(t, dir+"/datagrams", unix.SOCK_DGRAM)
	listen(t, dir+"/live")
	for name, c := range map[string]struct {
		kind error
		also error
		code ipc.Code
	}{
		dir + "/none":      {ErrNotServed, fs.ErrNotExist, ipc.CodeUnavailable},
		dir + "/none/none": {ErrNotServed, fs.ErrNotExist, ipc.CodeUnavailable},
		dir + "/dead":      {ErrNotServed, unix.ECONNREFUSED, ipc.CodeUnavailable},
		"@tandem-nobody":   {ErrNotServed, unix.ECONNREFUSED, ipc.CodeUnavailable},
		"nobody":           {ErrNotServed, fs.ErrNotExist, ipc.CodeUnavailable},
		dir + "/file":      {ErrNotSocket, unix.ENOTSOCK, ipc.CodeFailedPrecondition},
		dir + "/file/x":    {ErrNotSocket, unix.ENOTDIR, ipc.CodeFailedPrecondition},
		dir + "/datagrams": {ErrNotSocket, unix.EPROTOTYPE, ipc.CodeFailedPrecondition},
		dir + "/live\x00":  {ErrBadName, nil, ipc.CodeInvalidArgument},
	} {
		_, _, err := Dial(t.Context(), name, DialOptions{})
		require.ErrorContains(t, err, "tandem: ")
		for _, kind := range []error{ErrNotServed, ErrNotSocket, ErrNotAllowed, ErrBadName, ErrServed} {
			require.Equal(t, kind == c.kind, errors.Is(err, kind), "%q: %v", name, err)
		}
		if c.also != nil {
			require.ErrorIs(t, err, c.also, name)
		}
		require.Equal(t, c.code, ipc.CodeOf(err), name)
		require.NoDirExists(t, os.Getenv("XDG_RUNTIME_DIR")+"/tandem", "to dial makes nothing")
	}
}

// A directory that may be passed through and not be read is no hindrance.
func TestDialThroughADirectory(t *testing.T) {
	dir := openDir(t, os.Geteuid(), 0o711)
	l, err := Listen(dir+"/s", ListenOptions{Mode: 0o666})
	require.NoError(t, err)
	defer l.Close()
	serveEcho(t, l, Gate{Allow: func(Peer) error { return nil }})
	otherUser(t, "client", l.Path()).expect("welcome")
}

// Services finds who listens, and nothing else, and leaves no trace at the servers.
func TestServices(t *testing.T) {
	run := tempDir(t)
	t.Setenv("XDG_RUNTIME_DIR", run)
	all, err := Services()
	require.NoError(t, err)
	require.Empty(t, all)
	require.NoDirExists(t, run+"/tandem")

	a := listen(t, "alpha")
	b := start(t, helper(t, "listen", "022", "beta"))
	c := start(t, helper(t, "listen", "022", "gamma"))
	for _, p := range []*proc{b, c} {
		p.expect("ready")
		p.tell()
		p.expect("won")
	}
	c.kill()
	full(t, run+"/tandem/delta")
	touch(t, run+"/tandem/file")
	link(t, a.Path(), run+"/tandem/link")
	bound(t, run+"/tandem/datagrams", unix.SOCK_DGRAM)
	listen(t, run+"/tandem/.hidden")
	before := tree(t, run)
	all, err = Services()
	require.NoError(t, err)
	require.Equal(t, []Service{
		{"alpha", run + "/tandem/alpha", os.Getpid()}, {"beta", run + "/tandem/beta", b.Process.Pid}, {"delta", run + "/tandem/delta", 0},
	}, all)
	require.Equal(t, before, tree(t, run), "the one that has ended is left")
	for _, s := range all[:2] {
		conn, _, err := Dial(t.Context(), s.Name, DialOptions{})
		require.NoError(t, err)
		conn.Close()
	}
	conn, err := a.ln.AcceptUnix()
	require.NoError(t, err)
	require.EqualError(t, read(conn), "EOF", "a look brings no byte")
	conn.Close()
	b.end()
	require.NoError(t, os.Remove(run+"/tandem/gamma"))
}
