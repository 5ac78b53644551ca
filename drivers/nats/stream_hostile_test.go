package natsipc_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/flow"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

const goodStream = "65536 -"

var goodCall = fmt.Sprintf("1 %x cbor %s 0 1000000000 0 -", numbers.Info().ID, order)

// Openings that no client sends are refused or dropped, and hurt nobody.
func TestHostileOpenings(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc, there := natstest.Connect(t, srv), natstest.Connect(t, srv)
	s, _ := newServer()
	few := service
	few.Streams = 1
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, few) })
	for name, h := range map[string]nats.Header{
		"nothing":           nil,
		"no stream":         {"Tandem-Call": {goodCall}},
		"another version":   {"Tandem-Call": {"9"}, "Tandem-Stream": {goodStream}},
		"garbage":           {"Tandem-Call": {goodCall}, "Tandem-Stream": {"x"}},
		"no window":         {"Tandem-Call": {goodCall}, "Tandem-Stream": {"1 -"}},
		"a negative window": {"Tandem-Call": {goodCall}, "Tandem-Stream": {"-1 -"}},
		"bad metadata":      {"Tandem-Call": {goodCall}, "Tandem-Stream": {goodStream}, "Tandem-Meta": {"%"}},
		"an unknown codec":  {"Tandem-Call": {strings.Replace(goodCall, "cbor", "x", 1)}, "Tandem-Stream": {goodStream}},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := nc.RequestMsg(&nats.Msg{Subject: "tandem.test.stream.test.numbers", Header: h}, 30*time.Second)
			require.NoError(t, err)
			require.Equal(t, byte(8), m.Data[0], "it is refused")
		})
	}
	m, err := nc.RequestMsg(&nats.Msg{Subject: "tandem.test.stream.test.numbers", Header: nats.Header{"Tandem-Call": {goodCall}, "Tandem-Stream": {"65536 f-"}}, Data: make([]byte, 100<<10)}, 30*time.Second)
	require.NoError(t, err)
	require.Contains(t, string(m.Data), "most allowed are", "its payload would be kept as long as the stream")
	// A reply subject that is none, none at all, and frames for streams that there are not.
	good := nats.Header{"Tandem-Call": {goodCall}, "Tandem-Stream": {goodStream}}
	require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: "tandem.test.stream.test.numbers", Header: good}))
	require.NoError(t, nc.Publish("tandem.test.flow.x.1", []byte("frame")))
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	require.Eventually(t, func() bool {
		got, err := collect(numbers.Stream(t.Context(), c, counting{N: 10}))
		return err == nil && len(got) == 10
	}, 30*time.Second, time.Millisecond, "the one place is free")
}

// Whoever answers openings may be hostile: the stream ends, and others are as they were.
func TestHostileAnswers(t *testing.T) {
	frame := func(kind, number byte, granted byte, body string) []byte {
		b := append([]byte{kind, number, 0, 0, 0, 0, 0, 0, 0, 0, 0, granted, 0, 0, 0, 0, 0}, body...)
		return b
	}
	accept := frame(1, 1, 1, "tandem.test.flow.x.1")
	for name, answers := range map[string][][]byte{
		"nothing":              {nil},
		"garbage":              {[]byte("garbage")},
		"elsewhere":            {frame(1, 1, 1, "else.where")},
		"items first":          {frame(2, 1, 1, "\x01\x00\x00\x00x")},
		"refused with garbage": {frame(8, 1, 1, "x")},
		"a gap":                {accept, frame(2, 3, 1, "\x01\x00\x00\x00x")},
		"bad metadata":         {accept, frame(3, 2, 1, "x")},
		"metadata of no use":   {accept, frame(3, 2, 1, "\xa1\x01\x81\xa2\x63Key\x61K\x65Value\x61v")},
		"a bad end":            {accept, frame(7, 2, 1, "x")},
	} {
		t.Run(name, func(t *testing.T) {
			nc := natstest.Connect(t, natstest.Start(t, nil))
			_, err := nc.Subscribe("tandem.test.stream.>", func(m *nats.Msg) {
				for _, b := range answers {
					_ = nc.Publish(m.Reply, b)
				}
			})
			require.NoError(t, err)
			c := natsipc.Caller(nc, "test", natsipc.WithHeartbeat(natsipc.MaxHeartbeat))
			defer c.Close()
			st, err := echoes.Open(t.Context(), c)
			if err == nil {
				_, err = st.Receive(t.Context())
			}
			require.Contains(t, []ipc.Code{ipc.CodeInternal, ipc.CodeUnavailable}, ipc.CodeOf(err), "%v", err)
			require.Eventually(t, func() bool { return c.Streams() == 0 }, 30*time.Second, time.Millisecond)
		})
	}
}

// A caller whose time is over while the handler sends is told apart from one that gives up: the handler's own time ends it.
func TestStreamIsOverdue(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, b := newServer()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	port, err := flow.Listen(nc, nc.NewInbox(), flow.Config{Beat: time.Second})
	require.NoError(t, err)
	defer port.Close(ipc.ErrClosed)
	f, err := port.Open("tandem.test.flow.", nil)
	require.NoError(t, err)
	call := fmt.Sprintf("1 %x cbor %s %d 1000000000 0 -", outflow.Info().ID, order, 5*time.Second)
	begun := time.Now()
	require.NoError(t, nc.PublishMsg(&nats.Msg{
		Subject: "tandem.test.stream.test.outflow", Reply: f.Subject(), Data: []byte("x"),
		Header: nats.Header{"Tandem-Call": {call}, "Tandem-Stream": {"65536 -fo"}},
	}))
	require.NoError(t, f.Opened(t.Context()))
	_, err = f.Receive(t.Context())
	require.NoError(t, err)
	time.Sleep(time.Until(begun.Add(4500 * time.Millisecond)))
	f.Abort(context.DeadlineExceeded) // its clock is ahead
	require.ErrorIs(t, within(t, b.ended), context.DeadlineExceeded)

	// It was the time of something else.
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	st, err := stuck.Open(t.Context(), c, ipc.WithTimeout(time.Hour))
	require.NoError(t, err)
	within(t, b.began)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for err = nil; err == nil; {
		err = st.Send(ctx, make([]byte, 5<<20))
	}
	require.ErrorIs(t, err, context.DeadlineExceeded, "it was sent in part")
	require.ErrorIs(t, within(t, b.ended), context.Canceled)
}

// An item that whoever answers does not take ends the stream, which would go on without it.
func TestItemIsRefused(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, _ := newServer()
	local, err := worker.Local(s, worker.WithMaxMessage(64<<10))
	require.NoError(t, err)
	defer local.Close()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Forward(ctx, nc, local, service) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	st, err := echoes.Open(t.Context(), c)
	require.NoError(t, err)
	defer st.Close()
	require.NoError(t, st.Send(t.Context(), make([]byte, 200<<10)))
	ended := make(chan error, 1)
	go func() { _, err := st.Receive(t.Context()); ended <- err }()
	err = within(t, ended)
	require.ErrorContains(t, err, "bytes")
	require.NotErrorIs(t, err, io.EOF)
}
