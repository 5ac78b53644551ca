//go:build linux

package rendezvous

import (
	"cmp"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// serveEcho serves until the test ends: it sends back what it gets.
func serveEcho(t testing.TB, l *Listener, gate Gate) {
	gate.HelloTimeout = cmp.Or(gate.HelloTimeout, testTimeout)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, gate, echo) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
	})
}

// echo says hello to a client with a byte, and then sends back what it gets.
func echo(ctx context.Context, c *Client) {
	if _, err := io.ReadFull(c.Conn, make([]byte, 1)); err != nil {
		return
	}
	if err := c.Established(); err != nil {
		c.Refuse(err)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Conn.SetDeadline(past) })
	defer stop()
	if _, err := c.Conn.Write([]byte{'!'}); err != nil {
		return
	}
	_, _ = io.Copy(c.Conn, c.Conn)
}

// hello becomes a client of echo.
func hello(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := conn.Write([]byte{'?'})
	require.NoError(t, err)
	got := make([]byte, 1)
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, "!", string(got))
}

func works(t testing.TB, name string) {
	t.Helper()
	conn, peer, err := Dial(testContext(t), name, DialOptions{})
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, Peer{UID: os.Geteuid(), GID: os.Getegid(), PID: os.Getpid()}, peer)
	hello(t, conn)
}

// names are one name of each kind.
func names(t testing.TB) map[string]string {
	dir := tempDir(t)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	deep := filepath.Join(dir, strings.Repeat("d", 100), strings.Repeat("e", 200))
	require.NoError(t, os.MkdirAll(deep, 0o700))
	wd, err := os.Getwd()
	require.NoError(t, err)
	relative, err := filepath.Rel(wd, filepath.Join(dir, "r"))
	require.NoError(t, err)
	return map[string]string{
		"path": filepath.Join(dir, "s"), "relative path": relative, "long path": filepath.Join(deep, "s"),
		"abstract": "@tandem-test-" + strconv.Itoa(os.Getpid()), "service": "quotes",
	}
}

func TestListenAndDial(t *testing.T) {
	for kind, name := range names(t) {
		t.Run(kind, func(t *testing.T) {
			_, _, err := Dial(testContext(t), name, DialOptions{})
			require.ErrorIs(t, err, ErrNotServed)
			require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))

			l, err := Listen(name, ListenOptions{})
			require.NoError(t, err)
			require.Equal(t, name, l.Name())
			serveEcho(t, l, Gate{})
			works(t, name)

			_, err = Listen(name, ListenOptions{})
			require.ErrorIs(t, err, ErrServed)
			require.ErrorIs(t, err, syscall.EADDRINUSE)
			require.ErrorContains(t, err, "already served by process "+strconv.Itoa(os.Getpid()))
			works(t, name)

			if kind != "abstract" {
				info, err := os.Lstat(l.Path())
				require.NoError(t, err)
				require.Equal(t, os.ModeSocket|0o600, info.Mode())
			}
			require.NoError(t, l.Close())
			require.NoError(t, l.Close())
			require.NoFileExists(t, l.Path())
			require.NoFileExists(t, l.Path()+lockSuffix)
			_, _, err = Dial(testContext(t), name, DialOptions{})
			require.ErrorIs(t, err, ErrNotServed)
			listen(t, name)
		})
	}
}
