package natsipc_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/ipc"
)

// documented returns the nth configuration that docs/distribution.md shows, for the service of the tests.
func documented(t *testing.T, n int) *server.Options {
	t.Helper()
	doc, err := os.ReadFile("../../docs/distribution.md")
	require.NoError(t, err)
	parts := strings.Split(string(doc), "```hcl\n")
	require.Greater(t, len(parts), n)
	conf, _, ok := strings.Cut(parts[n], "```")
	require.True(t, ok)
	path := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(conf, "tandem.text.", "tandem.test.")), 0o600))
	o, err := server.ProcessConfigFile(path)
	require.NoError(t, err)
	return o
}

// The permissions that the documentation shows are enough for calls, cancellation and what is large, which travels as streams do, and for nothing else.
func TestPermissions(t *testing.T) {
	conf := documented(t, 1)
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, Users: conf.Users, AuthTimeout: 60}
	srv, err := server.NewServer(o)
	require.NoError(t, err)
	srv.Start()
	defer srv.WaitForShutdown()
	defer srv.Shutdown()
	require.True(t, srv.ReadyForConnections(time.Minute))

	denied := make(chan error, 1000)
	connect := func(user string) *nats.Conn {
		nc, err := nats.Connect(srv.ClientURL(), nats.UserInfo(user, "secret-of-"+user), nats.Timeout(time.Minute), nats.CustomInboxPrefix("_INBOX_"+user),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		return nc
	}
	here, there := connect("caller"), connect("worker")
	s, b := newServer()
	stop := serve(t, here, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })

	c := natsipc.Caller(here, "test")
	defer c.Close()
	n, err := double.Call(t.Context(), c, 21)
	require.NoError(t, err)
	require.Equal(t, 42, n)
	large := make([]byte, 3<<20)
	back, err := echo.Call(t.Context(), c, large) // travels as a stream does, both ways
	require.NoError(t, err)
	require.Len(t, back, len(large))
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := block.Call(ctx, c, "x")
		failed <- err
	}()
	within(t, b.began)
	cancel()
	require.ErrorIs(t, within(t, failed), context.Canceled)
	require.ErrorIs(t, within(t, b.ended), context.Canceled)
	stats, err := here.Request("$SRV.PING.test", nil, 30*time.Second)
	require.NoError(t, err)
	require.Contains(t, string(stats.Data), `"name":"test"`)
	require.Empty(t, denied)

	refused := func(nc *nats.Conn, what string, do func() error) {
		t.Helper()
		require.NoError(t, do())
		require.NoError(t, nc.Flush())
		err := within(t, denied)
		require.ErrorIs(t, err, nats.ErrPermissionViolation, what)
	}
	subscribe := func(nc *nats.Conn, subject string) func() error {
		return func() error { _, err := nc.SubscribeSync(subject); return err }
	}
	publish := func(nc *nats.Conn, subject string) func() error {
		return func() error { return nc.Publish(subject, nil) }
	}
	for _, subject := range []string{"tandem.test.call.>", "tandem.test.flow.>", "_INBOX_worker.>", "_INBOX.>", ">"} {
		refused(here, "the caller listens to "+subject, subscribe(here, subject))
	}
	for _, subject := range []string{"tandem.other.call.x", "_INBOX_worker.x", "$SRV.STATS.other"} {
		refused(here, "the caller publishes to "+subject, publish(here, subject))
	}
	for _, subject := range []string{"tandem.other.call.>", "_INBOX_caller.>", ">"} {
		refused(there, "the worker listens to "+subject, subscribe(there, subject))
	}
	for _, subject := range []string{"tandem.test.call.test.double", "tandem.other.call.x", "$SRV.PING"} {
		refused(there, "the worker publishes to "+subject, publish(there, subject))
	}

	// One that may call other services only gets an error, and no answer.
	other := connect("stranger")
	oc := natsipc.Caller(other, "test", natsipc.WithHeartbeat(50*time.Millisecond))
	defer oc.Close()
	_, err = double.Call(t.Context(), oc, 1)
	require.ErrorIs(t, err, ipc.ErrPeerGone)
	require.ErrorIs(t, within(t, denied), nats.ErrPermissionViolation)
	require.NoError(t, stop())

	for _, opt := range []nats.Option{nats.UserInfo("caller", "wrong"), func(*nats.Options) error { return nil }} {
		_, err := nats.Connect(srv.ClientURL(), opt, nats.Timeout(time.Minute))
		require.True(t, errors.Is(err, nats.ErrAuthorization) || errors.Is(err, io.EOF), "%v", err)
	}
}
