package natsipc_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
)

// permissions are those that docs/distribution.md shows, for a service of this name.
func permissions(service string) []*server.User {
	allow := func(subjects ...string) *server.SubjectPermission { return &server.SubjectPermission{Allow: subjects} }
	return []*server.User{
		{Username: "caller", Password: "x", Permissions: &server.Permissions{
			Publish: allow("tandem." + service + ".>"), Subscribe: allow("_INBOX_caller.>"),
		}},
		{Username: "server", Password: "x", Permissions: &server.Permissions{
			Publish: allow("_INBOX_caller.>", "_INBOX_tools.>"), Subscribe: allow("tandem."+service+".>", "$SRV.>"),
		}},
		{Username: "tools", Password: "x", Permissions: &server.Permissions{
			Publish: allow("$SRV.>"), Subscribe: allow("_INBOX_tools.>"),
		}},
	}
}

// With the permissions that the documents show, calls of all sizes, streams and discovery work, and what is not allowed ends with an error.
func TestPermissions(t *testing.T) {
	srv := natstest.Start(t, func(o *server.Options) { o.Users = permissions("test") })
	denied := make(chan error, 100)
	as := func(user string) *nats.Conn {
		return natstest.Connect(t, srv, nats.UserInfo(user, "x"), nats.CustomInboxPrefix("_INBOX_"+user), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			denied <- err
		}))
	}
	there, here, tools := as("server"), as("caller"), as("tools")
	s, _ := newServer()
	stop := serve(t, here, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	c := natsipc.Caller(here, "test", natsipc.WithHeartbeat(50*time.Millisecond))
	defer c.Close()
	n, err := double.Call(t.Context(), c, 4)
	require.NoError(t, err)
	require.Equal(t, 8, n)
	large := make([]byte, 3<<20)
	got, err := echo.Call(t.Context(), c, large)
	require.NoError(t, err)
	require.Len(t, got, len(large))
	next := 0
	for i, err := range numbers.Stream(t.Context(), c, counting{N: 1000}) {
		require.NoError(t, err)
		require.Equal(t, next, i)
		next++
	}
	require.Equal(t, 1000, next)
	m, err := tools.Request("$SRV.PING.test", nil, time.Minute)
	require.NoError(t, err)
	require.NotEmpty(t, m.Data)
	require.Empty(t, denied)

	other := natsipc.Caller(here, "other", natsipc.WithHeartbeat(50*time.Millisecond))
	defer other.Close()
	_, err = double.Call(t.Context(), other, 4)
	require.ErrorIs(t, err, ipc.ErrPeerGone, "NATS does not say to whom it has denied what")
	require.ErrorIs(t, within(t, denied), nats.ErrPermissionViolation)
	_, err = here.SubscribeSync("tandem.test.call.>")
	require.NoError(t, err)
	require.ErrorIs(t, within(t, denied), nats.ErrPermissionViolation, "a caller does not hear what others ask")
	require.NoError(t, stop())
}
