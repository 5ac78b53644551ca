//go:build unix

package natsipc_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
)

// accounts returns the URLs of a server of NATS with the accounts that the documentation shows: of the one that serves, and of one that calls.
func accounts(t *testing.T) (serving, calling string) {
	t.Helper()
	conf := documented(t, 2)
	srv := natstest.Start(t, func(o *server.Options) {
		*o = *conf
		o.Host, o.Port, o.NoLog, o.NoSigs, o.AuthTimeout = "127.0.0.1", server.RANDOM_PORT, true, true, 60
	})
	as := func(user string) string {
		return strings.Replace(srv.ClientURL(), "//", "//"+user+":secret-of-"+user+"@", 1)
	}
	return as("worker"), as("caller")
}

func connect(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, nats.Timeout(time.Minute))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// A caller of another account, to which a service is exported as the documentation shows, has all that one of the same account has.
func TestAccounts(t *testing.T) {
	serving, calling := accounts(t)
	there, here := connect(t, serving), connect(t, calling)
	s, b := newServer()
	serve(t, there, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	c := natsipc.Caller(here, "test")
	defer c.Close()

	n, err := double.Call(t.Context(), c, 21)
	require.NoError(t, err)
	require.Equal(t, 42, n)
	_, err = fail.Call(t.Context(), c, "code")
	require.Equal(t, ipc.CodeNotFound, ipc.CodeOf(err))
	var header ipc.Metadata
	value, err := meta.Call(t.Context(), c, "key", ipc.WithMetadata("key", "value"), ipc.WithHeader(&header))
	require.NoError(t, err)
	require.Equal(t, "value", value)
	require.Equal(t, "value", header.Get("head"))

	for _, size := range []int{100 << 10, 3 << 20} { // in one message, and as a stream
		sent := bytes.Repeat([]byte{7}, size)
		got, err := echo.Call(t.Context(), c, sent)
		require.NoError(t, err)
		require.True(t, bytes.Equal(sent, got))
	}
	got := 0
	for n, err := range numbers.Stream(t.Context(), c, counting{N: 10_000}) {
		require.NoError(t, err)
		require.Equal(t, got, n)
		got++
	}
	require.Equal(t, 10_000, got)

	// A long call lives on by its heartbeats, and its handler is told that it was given up.
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := block.Call(ctx, c, "x", ipc.WithTimeout(0))
		failed <- err
	}()
	within(t, b.began)
	select {
	case err := <-failed:
		t.Fatalf("after %v", err)
	case <-time.After(6 * natsipc.DefaultHeartbeat):
	}
	cancel()
	require.ErrorIs(t, within(t, failed), context.Canceled)
	require.ErrorIs(t, within(t, b.ended), context.Canceled)
}

// A large response is fetched by a caller of another account.
func TestAccountsLargeResponse(t *testing.T) {
	serving, calling := accounts(t)
	there, here := connect(t, serving), connect(t, calling)
	s, _ := newServer()
	handleBlow(s)
	serve(t, there, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	c := natsipc.Caller(here, "test")
	defer c.Close()
	got, err := blow.Call(t.Context(), c, 3<<20)
	require.NoError(t, err)
	require.Len(t, got, 3<<20)
}

// The handler's context ends when the process of another account that calls was killed.
func TestAccountsCallerDies(t *testing.T) {
	serving, calling := accounts(t)
	there := connect(t, serving)
	s, b := newServer()
	serve(t, there, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	p := elsewhere(t, callEnv, calling)
	within(t, b.began)
	require.NoError(t, p.Kill())
	require.ErrorIs(t, within(t, b.ended), context.Canceled)
}
