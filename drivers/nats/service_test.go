package natsipc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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

// What a JetStream stream says that takes the subjects of requests is not taken for an answer.
func TestStreamTakesRequests(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc := natstest.Connect(t, srv)
	s, _ := newServer()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "GREEDY", Subjects: []string{"tandem.test.call.>"}, Storage: jetstream.MemoryStorage})
	require.NoError(t, err)
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	for range 50 {
		got, err := echo.Call(t.Context(), c, []byte("x"))
		if err != nil {
			require.ErrorIs(t, err, ipc.ErrProtocol)
			continue
		}
		require.Equal(t, "x", string(got))
	}
}

// Nobody who has a call of its own can tell where those of others are controlled.
func TestControlsAreNotGuessed(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc := natstest.Connect(t, srv)
	s, _ := newServer()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	beats := make(chan *nats.Msg, 1000)
	inbox := nc.NewInbox()
	sub, err := nc.ChanSubscribe(inbox, beats)
	require.NoError(t, err)
	defer func() { require.NoError(t, sub.Unsubscribe()) }()
	request, err := ipc.Marshal(ipc.CBOR, nil, "x")
	require.NoError(t, err)
	seen := make(map[string]bool)
	for range 50 {
		require.NoError(t, nc.PublishMsg(&nats.Msg{
			Subject: "tandem.test.call.test.block", Reply: inbox, Data: request,
			Header: nats.Header{"Tandem-Call": {fmt.Sprintf("1 %x cbor le 0 60000000000 0 -", block.Info().ID)}},
		}))
		m := within(t, beats)
		require.Equal(t, "alive", m.Header.Get("Tandem-Answer"))
		number := m.Reply[strings.LastIndexByte(m.Reply, '.')+1:]
		require.GreaterOrEqual(t, len(number), 8, "of 64 bits by chance")
		require.False(t, seen[number])
		seen[number] = true
		require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: m.Reply, Header: nats.Header{"Tandem-Control": {"cancel"}}}))
	}
}
