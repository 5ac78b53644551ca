package natsipc_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// order is this machine's order of bytes, as requests say it.
var order = map[uint16]string{0x0201: "le", 0x0102: "be"}[binary.NativeEndian.Uint16([]byte{1, 2})]

// Who may call one method by its subject calls no other by its number.
func TestNumberOfAnotherMethod(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc := natstest.Connect(t, srv)
	for name, run := range map[string]func(ctx context.Context, s *worker.Server) error{
		"served": func(ctx context.Context, s *worker.Server) error { return natsipc.Serve(ctx, nc, s, service) },
		"forwarded": func(ctx context.Context, s *worker.Server) error {
			local, err := worker.Local(s)
			if err != nil {
				return err
			}
			defer local.Close()
			own := service
			own.Methods = s.Methods()
			worker.Handle(s, ipc.NewMethod[int, int]("test.not_shown"), func(context.Context, int) (int, error) { panic("it was called") })
			return natsipc.Forward(ctx, nc, local, own)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newServer()
			stop := serve(t, nc, func(ctx context.Context) error { return run(ctx, s) })
			ask := func(subject string, id uint64, h nats.Header) string {
				h["Tandem-Call"] = []string{fmt.Sprintf("1 %x cbor %s 0 1000000000 0 -", id, order)}
				return string(ask(t, nc, &nats.Msg{Subject: subject, Header: h, Data: []byte{1}}).Data)
			}
			require.Equal(t, "ok", firstLine(ask("tandem.test.call.test.double", double.Info().ID, nats.Header{})))
			require.Contains(t, ask("tandem.test.call.test.double", pid.Info().ID, nats.Header{}), "number of another method")
			require.Contains(t, ask("tandem.test.stream.test.numbers", pid.Info().ID, nats.Header{"Tandem-Stream": {"65536 fc"}}), "number of another method")
			require.NotEqual(t, "ok", firstLine(ask("tandem.test.call.test.double", ipc.NewMethod[int, int]("test.not_shown").Info().ID, nats.Header{})))
			require.NoError(t, stop())
		})
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// Statistics keep a bounded part of what went wrong, and can be asked for whatever that was.
func TestStatisticsAreBounded(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, _ := newServer()
	long := ipc.NewMethod[int, int]("test.long")
	worker.Handle(s, long, func(context.Context, int) (int, error) { return 0, fmt.Errorf("%s", strings.Repeat("<ü", 300<<10)) })
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	_, err := long.Call(t.Context(), c, 1)
	require.Error(t, err)
	for _, h := range []string{"1 1 cbor %s 0 1000000000 0 -", "1 1 %s le 0 1000000000 0 -", "%s"} {
		m := &nats.Msg{Subject: "tandem.test.call.test.double", Header: nats.Header{"Tandem-Call": {fmt.Sprintf(h, strings.Repeat("<", 500<<10))}}}
		answer, err := nc.RequestMsg(m, 30*time.Second)
		require.NoError(t, err)
		require.Less(t, len(answer.Data), 10_000)
		m, err = nc.Request("$SRV.STATS.test", nil, 30*time.Second)
		require.NoError(t, err)
		var stats micro.Stats
		require.NoError(t, json.Unmarshal(m.Data, &stats))
		for _, e := range stats.Endpoints {
			require.LessOrEqual(t, len(e.LastError), 200)
		}
	}
}

// A request that asks for its answer at a subject of NATS itself gets none.
func TestReplySubjectsOfNATS(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc := natstest.Connect(t, srv)
	s, _ := newServer()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	spy, err := nc.SubscribeSync("$JS.API.>")
	require.NoError(t, err)
	for _, subject := range []string{"tandem.test.call.test.double", "tandem.test.stream.test.numbers", "$SRV.PING"} {
		require.NoError(t, nc.PublishRequest(subject, "$JS.API.STREAM.DELETE.X", nil))
	}
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	_, err = double.Call(t.Context(), c, 1)
	require.NoError(t, err)
	_, err = spy.NextMsg(50 * time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout)
}

// A server that has called the handler, and is gone before the response is fetched, is not taken for nobody.
func TestResponseIsGone(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, _ := newServer() // which knows of no such call
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	m, err := nc.Request("$SRV.PING.test", nil, 30*time.Second)
	require.NoError(t, err)
	var ping micro.Ping
	require.NoError(t, json.Unmarshal(m.Data, &ping))
	for name, instance := range map[string]string{"killed": "x", "ended": ping.ID} {
		t.Run(name, func(t *testing.T) {
			control := "tandem.test.control." + instance + ".1"
			var calls atomic.Int32
			sub, err := nc.Subscribe("tandem.test.call.test.again", func(m *nats.Msg) {
				calls.Add(1)
				_ = nc.PublishMsg(&nats.Msg{Subject: m.Reply, Reply: control, Header: nats.Header{"Tandem-Answer": {"large"}, "Tandem-Control": {control}}, Data: []byte("100000")})
			})
			require.NoError(t, err)
			defer func() { require.NoError(t, sub.Unsubscribe()) }()
			c := natsipc.Caller(nc, "test", natsipc.WithRetry(2))
			defer c.Close()
			_, err = again.Call(t.Context(), c, "") // which blocks where it is served
			require.ErrorIs(t, err, ipc.ErrPeerGone)
			require.NotErrorIs(t, err, nats.ErrNoResponders)
			require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
			require.EqualValues(t, 2, calls.Load(), "it was made again")
		})
	}
}

// What a service behind a service says of a server that is gone arrives.
func TestForwardedOverTwoServices(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	inner, err := nc.Subscribe("tandem.inner.call.>", func(m *nats.Msg) {
		_ = nc.PublishMsg(&nats.Msg{Subject: m.Reply, Header: nats.Header{"Tandem-Answer": {"gone"}}, Data: ipc.AppendError(nil, ipc.NewError(ipc.CodeUnavailable, "a worker died"))})
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, inner.Unsubscribe()) }()
	to := natsipc.Caller(nc, "inner")
	defer to.Close()
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- natsipc.Forward(ctx, nc, to, service) }()
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	require.Eventually(t, func() bool {
		_, err = double.Call(t.Context(), c, 1)
		return err != nil && !strings.Contains(err.Error(), "nobody serves")
	}, 30*time.Second, time.Millisecond)
	require.ErrorIs(t, err, ipc.ErrPeerGone)
	cancel()
	require.NoError(t, within(t, over))
}

// A response beyond the bound of the service is refused, whatever the bound of the one who answers is.
func TestResponseBeyondTheBound(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, _ := newServer()
	handleBlow(s)
	local, err := worker.Local(s)
	require.NoError(t, err)
	defer local.Close()
	small := service
	small.MaxMessage = 64 << 10
	serve(t, nc, func(ctx context.Context) error { return natsipc.Forward(ctx, nc, local, small) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	b, err := blow.Call(t.Context(), c, 60<<10)
	require.NoError(t, err)
	require.Len(t, b, 60<<10)
	_, err = blow.Call(t.Context(), c, 64<<10+1)
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err), "%v", err)
}

// A large request that waits for a place among others is given up with its caller.
func TestLargeRequestGivenUpWhileItWaits(t *testing.T) {
	svc := service
	svc.Streams = 17
	_, client := largeService(t, svc)
	c := client()
	large := strings.Repeat("x", 3*payload)
	for range 16 {
		go func() { _, _ = block.Call(t.Context(), c, large) }()
	}
	require.Eventually(t, func() bool { return c.Streams() == 16 }, 30*time.Second, time.Millisecond)
	_, err := block.Call(t.Context(), c, large, ipc.WithTimeout(time.Second))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Eventually(t, func() bool {
		got, err := collect(numbers.Stream(t.Context(), c, counting{N: 3}))
		return err == nil && len(got) == 3
	}, 30*time.Second, time.Millisecond, "its place among the streams is free")
}
