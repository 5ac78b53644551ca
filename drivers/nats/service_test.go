package natsipc_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// The tools for micro services find a service, its methods, and how calls have ended.
func TestDiscovery(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc := natstest.Connect(t, srv)
	s, _ := newServer()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	for range 3 {
		_, err := double.Call(t.Context(), c, 1)
		require.NoError(t, err)
		_, err = fail.Call(t.Context(), c, "code")
		require.Error(t, err)
	}
	ask := func(verb string, answer any) {
		m, err := nc.Request("$SRV."+verb+".test", nil, time.Minute)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(m.Data, answer))
	}
	var ping micro.Ping
	ask("PING", &ping)
	require.Equal(t, []string{"test", "1.2.0", micro.PingResponseType}, []string{ping.Name, ping.Version, ping.Type})
	var info micro.Info
	ask("INFO", &info)
	require.Len(t, info.Endpoints, len(s.Methods()))
	var stats micro.Stats
	require.Eventually(t, func() bool { // a call is counted when it was answered
		stats = micro.Stats{}
		ask("STATS", &stats)
		n := 0
		for _, e := range stats.Endpoints {
			switch e.Name {
			case "test_double":
				require.Zero(t, e.NumErrors)
				n += e.NumRequests
			case "test_fail":
				n += e.NumErrors
			}
		}
		return n == 6
	}, 30*time.Second, time.Millisecond)
}

// What is beyond the bound of a service is refused, and a pool or any caller may answer.
func TestForwardAndOverload(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc := natstest.Connect(t, srv)
	s, b := newServer()
	local, err := worker.Local(s)
	require.NoError(t, err)
	defer local.Close()
	one := service
	one.Concurrency = 1
	serve(t, nc, func(ctx context.Context) error { return natsipc.Forward(ctx, nc, local, one) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _, _ = block.Call(ctx, c, "x") }()
	within(t, b.began)
	_, err = double.Call(t.Context(), c, 1)
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
	cancel()
	require.ErrorIs(t, within(t, b.ended), context.Canceled)

	other := natsipc.Caller(nc, "test", natsipc.WithCodec(ipc.JSON))
	defer other.Close()
	require.Eventually(t, func() bool {
		_, err = double.Call(t.Context(), other, 1)
		return ipc.CodeOf(err) == ipc.CodeFailedPrecondition
	}, 30*time.Second, time.Millisecond)
	require.ErrorContains(t, err, "codec mismatch")
}

// Notifications of one goroutine are handled in order.
func TestNotifyInOrder(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc := natstest.Connect(t, srv)
	s, _ := newServer()
	note := ipc.NewMethod[int, struct{}]("test.note")
	got := make(chan int, 100)
	worker.Handle(s, note, func(_ context.Context, n int) (struct{}, error) { got <- n; return struct{}{}, nil })
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	for n := range 100 {
		require.NoError(t, note.Notify(t.Context(), c, n))
	}
	for n := range 100 {
		require.Equal(t, n, within(t, got))
	}
}
