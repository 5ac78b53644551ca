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

// Requests that no caller sends are refused with an error that says so, and those with a line and with a header mean the same.
func TestHostileRequests(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, _ := newServer()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	encoded, err := ipc.Marshal(ipc.CBOR, nil, 21)
	require.NoError(t, err)
	id := double.Info().ID
	request := func(header, line, request string) (string, *ipc.Error) {
		m := &nats.Msg{Subject: "tandem.test.call.test.double", Data: []byte(line + request)}
		if header != "" {
			m.Header = nats.Header{"Tandem-Call": {header}}
		}
		answer := ask(t, nc, m)
		if answer.Header.Get("Tandem-Answer") == "" {
			return string(answer.Data), nil
		}
		require.Equal(t, "error", answer.Header.Get("Tandem-Answer"))
		return "", ipc.ParseError(answer.Data)
	}
	good := fmt.Sprintf("1 %x cbor le 0 60000000000 0 -", id)
	answer, err := ipc.Marshal(ipc.CBOR, nil, 42)
	require.NoError(t, err)
	for line, code := range map[string]ipc.Code{
		good: 0, good + "i": 0,
		"": ipc.CodeInvalidArgument, "1": ipc.CodeInvalidArgument, "1 2 3": ipc.CodeInvalidArgument, "1 0 cbor le 0 1 0 -": ipc.CodeInvalidArgument,
		"1 x cbor le 0 1 0 -": ipc.CodeInvalidArgument, fmt.Sprintf("1 %x cbor le -1 1 0 -", id): ipc.CodeInvalidArgument, strings.Repeat("x", 3000): ipc.CodeFailedPrecondition, "1 " + strings.Repeat("x", 3000): ipc.CodeInvalidArgument,
		"2 1 cbor le 0 1 0 -": ipc.CodeFailedPrecondition, fmt.Sprintf("1 %x cbor be 0 1 0 -", id): ipc.CodeFailedPrecondition, fmt.Sprintf("1 %x fixed le 0 1 0 -", id): ipc.CodeFailedPrecondition,
	} {
		for _, way := range []string{"line", "header"} {
			var got string
			var failed *ipc.Error
			if way == "line" {
				got, failed = request("", line+"\n", string(encoded))
			} else {
				got, failed = request(line, "", string(encoded))
			}
			switch {
			case code == 0:
				require.Nil(t, failed, "%s %q", way, line)
				require.Equal(t, "ok\n"+string(answer), got, "%s %q", way, line)
			case way == "line" && len(line) > 512: // too long for one
				require.Equal(t, ipc.CodeInvalidArgument, failed.Code)
			default:
				require.NotNil(t, failed, "%s %q", way, line)
				require.Equal(t, code, failed.Code, "%s %q: %v", way, line, failed)
				require.Less(t, len(failed.Message), 500)
			}
		}
	}
	_, failed := request("", "", "no line feed")
	require.Equal(t, ipc.CodeInvalidArgument, failed.Code)
	_, failed = request("", "", "")
	require.Equal(t, ipc.CodeInvalidArgument, failed.Code)
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
