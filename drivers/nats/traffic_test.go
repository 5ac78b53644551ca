package natsipc_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
)

// What docs/distribution.md computes with: a call is two messages with some bytes more, a pending one a heartbeat in each interval, and a service has a
// number of subscriptions that does not depend on that of its methods and calls.
func TestTraffic(t *testing.T) {
	srv := natstest.Start(t, func(o *server.Options) { o.JetStream = false })
	here, there := natstest.Connect(t, srv), natstest.Connect(t, srv)
	s, b := newServer()
	serve(t, here, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	subs := there.NumSubscriptions()
	c := natsipc.Caller(here, "test")
	defer c.Close()
	size := func(req []byte) (messages, bytes uint64) {
		_, err := echo.Call(t.Context(), c, req)
		require.NoError(t, err)
		before := here.Stats()
		for range 100 {
			_, err := echo.Call(t.Context(), c, req)
			require.NoError(t, err)
		}
		after := here.Stats()
		return after.OutMsgs - before.OutMsgs + after.InMsgs - before.InMsgs, after.OutBytes - before.OutBytes + after.InBytes - before.InBytes
	}
	messages, bytes := size(make([]byte, 1000))
	require.GreaterOrEqual(t, messages, uint64(200))
	require.LessOrEqual(t, messages, uint64(300), "a call that takes longer than 20 ms, since others load the processors, has one more")
	const heartbeat = 150 // at most, and some less
	bytes -= min((messages-200)*heartbeat, bytes-200_000)
	t.Logf("a call has %d bytes besides its payloads", bytes/100-2000)
	require.Less(t, bytes/100-2000, uint64(100))
	require.Equal(t, subs, there.NumSubscriptions())
	require.Equal(t, 1, here.NumSubscriptions(), "of a caller, however many calls it makes")
	t.Logf("a service has %d subscriptions", subs)

	for _, verb := range []string{"PING", "INFO", "STATS"} {
		m, err := here.Request("$SRV."+verb+".test", nil, 30*time.Second)
		require.NoError(t, err)
		require.True(t, json.Valid(m.Data))
		t.Logf("%s of a service with %d methods has %d bytes", verb, len(s.Methods()), len(m.Data))
	}

	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	beating := natsipc.Caller(here, "test", natsipc.WithHeartbeat(time.Second))
	defer beating.Close()
	go func() {
		_, err := block.Call(ctx, beating, "x", ipc.WithTimeout(0))
		failed <- err
	}()
	within(t, b.began)
	beats := there.Stats()
	require.Eventually(t, func() bool { return there.Stats().OutMsgs >= beats.OutMsgs+3 }, 30*time.Second, time.Millisecond)
	t.Logf("a heartbeat has %d bytes", (there.Stats().OutBytes-beats.OutBytes)/(there.Stats().OutMsgs-beats.OutMsgs))
	cancel()
	require.ErrorIs(t, within(t, failed), context.Canceled)
}
