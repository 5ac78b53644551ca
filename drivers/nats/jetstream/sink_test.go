//go:build unix

package jetipc_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	jetipc "github.com/tandemipc/tandem/drivers/nats/jetstream"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// numbers returns the records from one number on that are before another one.
func numbers(from, to uint64) (items []pipeline.Item[uint64]) {
	for n := from; n < to; n++ {
		items = append(items, pipeline.Item[uint64]{ID: pipeline.ID{Pos: n}, Record: n})
	}
	return items
}

// newSink makes a sink with the origin "test".
func newSink(t testing.TB, js jetstream.JetStream, subject string, opts ...jetipc.SinkOption) *jetipc.Sink[uint64] {
	t.Helper()
	s, err := jetipc.NewSink[uint64](t.Context(), js, subject, "test", opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// write writes numbers, and flushes.
func write(t testing.TB, s *jetipc.Sink[uint64], from, to uint64) {
	t.Helper()
	require.NoError(t, within(t, func() error {
		return errors.Join(s.Write(t.Context(), numbers(from, to)), s.Flush(t.Context()))
	}))
}

// requireOnce fails unless a stream has the numbers before n once.
func requireOnce(t testing.TB, js jetstream.JetStream, stream string, n uint64) {
	t.Helper()
	got := contents(t, js, stream)
	require.Len(t, got, int(n))
	for v, times := range got {
		require.Equal(t, 1, times, v)
		require.Less(t, v, n)
	}
}

// A record that comes again, to this sink or another one with the origin, is in the stream once; with another origin it is another
// record. The parts of a record have ids of their own.
func TestSinkTakesOnce(t *testing.T) {
	for name, opts := range map[string][]jetipc.SinkOption{"window": nil, "forever": {jetipc.Forever()}} {
		t.Run(name, func(t *testing.T) {
			js := start(t)
			newStream(t, js, jetstream.StreamConfig{Name: "OUT"})
			s := newSink(t, js, "OUT", opts...)
			write(t, s, 0, 500)
			write(t, s, 250, 600)
			second := newSink(t, js, "OUT", opts...)
			write(t, second, 100, 700)
			requireOnce(t, js, "OUT", 700)
			require.EqualValues(t, 850, s.Stats().Stored)
			require.EqualValues(t, 250, s.Stats().Doubled)
			require.EqualValues(t, 500, second.Stats().Doubled)

			parts := []pipeline.Item[uint64]{{ID: pipeline.ID{Pos: 1, Part: 1}}, {ID: pipeline.ID{Pos: 1, Part: 2}}, {ID: pipeline.ID{Pos: 1, Part: 1, Path: "1"}}}
			require.NoError(t, s.Write(t.Context(), parts))
			require.NoError(t, s.Flush(t.Context()))
			require.EqualValues(t, 703, messages(t, js, "OUT"))
			other, err := jetipc.NewSink[uint64](t.Context(), js, "OUT", "other.1", opts...)
			require.NoError(t, err)
			defer other.Close()
			write(t, other, 0, 10)
			require.EqualValues(t, 713, messages(t, js, "OUT"))
		})
	}
}

// With Forever a record is known when the window for duplicates is over; without it it is not.
func TestSinkForever(t *testing.T) {
	for _, forever := range []bool{false, true} {
		js := start(t)
		const window = 10 * time.Second
		newStream(t, js, jetstream.StreamConfig{Name: "OUT", Duplicates: window})
		opts := []jetipc.SinkOption{jetipc.Patience(window)}
		if forever {
			opts = []jetipc.SinkOption{jetipc.Forever()}
		}
		write(t, newSink(t, js, "OUT", opts...), 0, 1)
		if forever {
			eventually(t, "the window is over", func() bool {
				_, err := js.Publish(t.Context(), "OUT", []byte{0x18, 0x63}, jetstream.WithMsgID("mark"))
				return err == nil && messages(t, js, "OUT") >= 3 // the record, and the mark twice
			})
			write(t, newSink(t, js, "OUT", opts...), 0, 1)
			require.Equal(t, 1, contents(t, js, "OUT")[0])
			continue
		}
		eventually(t, "it is taken again", func() bool {
			write(t, newSink(t, js, "OUT", opts...), 0, 1)
			return messages(t, js, "OUT") > 1
		})
	}
}

// silent makes a server that has a stream OUT, and nobody to confirm what is published: the stream is away, and a
// subscriber takes the messages.
func silent(t testing.TB, opts ...jetipc.SinkOption) (*jetipc.Sink[uint64], *nats.Subscription, jetstream.JetStream) {
	t.Helper()
	js := start(t)
	newStream(t, js, jetstream.StreamConfig{Name: "OUT"})
	s := newSink(t, js, "OUT", opts...)
	require.NoError(t, js.DeleteStream(t.Context(), "OUT"))
	sub, err := js.Conn().SubscribeSync("OUT")
	require.NoError(t, err)
	return s, sub, js
}

// No more is in flight than InFlight says; Write waits, and its context ends that.
func TestSinkIsBounded(t *testing.T) {
	for name, opt := range map[string]jetipc.SinkOption{
		"messages": jetipc.InFlight(10, 1<<30),
		"bytes":    jetipc.InFlight(1000, 1000),
		"single":   jetipc.InFlight(1000, 1),
	} {
		t.Run(name, func(t *testing.T) {
			s, sub, _ := silent(t, opt)
			ctx, cancel := context.WithCancel(t.Context())
			over := make(chan error, 1)
			go func() { over <- s.Write(ctx, numbers(0, 100)) }()
			var first *nats.Msg
			var err error
			first, err = sub.NextMsg(time.Minute)
			require.NoError(t, err)
			want := map[string]int{"messages": 10, "bytes": 1000 / (first.Size() - len(first.Reply)), "single": 1}[name]
			eventually(t, "it is full", func() bool { return s.Stats().InFlight >= want })
			require.Empty(t, over)
			require.Equal(t, want, s.Stats().InFlight)
			// What is confirmed makes room.
			require.NoError(t, first.Respond([]byte(`{"stream":"OUT","seq":1}`)))
			eventually(t, "there was room", func() bool { return s.Stats().Stored == 1 && s.Stats().InFlight == want })
			cancel()
			require.ErrorIs(t, within(t, func() error { return <-over }), context.Canceled)
			ctx, cancel = context.WithCancel(t.Context())
			cancel()
			require.ErrorIs(t, s.Flush(ctx), context.Canceled)
			// Close ends those that wait.
			go func() { over <- s.Flush(t.Context()) }()
			require.NoError(t, s.Close())
			require.ErrorIs(t, within(t, func() error { return <-over }), ipc.ErrClosed)
			require.ErrorIs(t, s.Write(t.Context(), numbers(0, 1)), ipc.ErrClosed)
		})
	}
}

// Answers that a stream does not give make the sink fail, and so does Flush from then on: nothing passes for stored.
func TestSinkWrongAnswers(t *testing.T) {
	for answer, want := range map[string]string{
		"":                        "acknowledgement",
		"+OK":                     "acknowledgement",
		"{}":                      "without a stream",
		`{"stream":"OUT"}`:        "without a stream",
		`{"stream":"","seq":1}`:   "without a stream",
		`{"seq":1}`:               "without a stream",
		`{"stream":7,"seq":"x"}`:  "acknowledgement",
		`[1]`:                     "acknowledgement",
		`{"stream":"OUT","seq":0`: "acknowledgement",
		`{"error":{"code":400,"err_code":10071,"description":"wrong last"}}`: "wrong last",
		`{"error":{"code":400,"err_code":10054,"description":"too large"}}`:  "too large",
	} {
		t.Run(answer, func(t *testing.T) {
			t.Parallel()
			s, sub, js := silent(t)
			require.NoError(t, s.Write(t.Context(), numbers(0, 3)))
			m, err := sub.NextMsg(time.Minute)
			require.NoError(t, err)
			// An answer to nothing, and of somebody else, does not matter.
			require.NoError(t, js.Conn().Publish(m.Reply[:len(m.Reply)-1]+"-", []byte("x")))
			require.NoError(t, js.Conn().Publish(m.Reply+"zz", []byte(`{"stream":"OUT","seq":1}`)))
			require.NoError(t, m.Respond([]byte(answer)))
			require.ErrorContains(t, within(t, func() error { return s.Flush(t.Context()) }), want)
			require.ErrorContains(t, s.Flush(t.Context()), want)
			require.ErrorContains(t, s.Write(t.Context(), numbers(3, 4)), want)
			require.Zero(t, s.Stats().InFlight)
		})
	}
}

// A full stream makes a pipeline wait until there is room, and fail when its patience ends: with what is full, nothing
// acknowledged that is not in the stream, and the next run completes it.
func TestStreamIsFull(t *testing.T) {
	js := start(t)
	source, consumer := inStream(t, js, 100, jetstream.ConsumerConfig{}, jetipc.Drain())
	config := jetstream.StreamConfig{Name: "OUT", MaxMsgs: 40, Discard: jetstream.DiscardNew}
	newStream(t, js, config)
	into := func(patience time.Duration) error {
		s := newSink(t, js, "OUT", jetipc.Patience(patience))
		return within(t, func() error { return pipeline.FromNumbered(source).Into(t.Context(), s) })
	}
	err := into(5 * time.Second)
	require.ErrorContains(t, err, "maximum messages exceeded")
	var api *jetstream.APIError
	require.ErrorAs(t, err, &api)
	undelivered, unacknowledged := pending(t, consumer)
	require.GreaterOrEqual(t, int(undelivered)+unacknowledged, 60)

	over := make(chan error, 1)
	go func() { over <- into(time.Minute) }()
	config.MaxMsgs, config.Subjects, config.Storage = -1, []string{"OUT", "OUT.>"}, jetstream.FileStorage
	_, err = js.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	require.NoError(t, <-over)
	requireOnce(t, js, "OUT", 100)
}

// A stream that goes away makes the pipeline fail when its patience ends, and a record that is too large at once.
func TestSinkFails(t *testing.T) {
	js := start(t)
	newStream(t, js, jetstream.StreamConfig{Name: "OUT", MaxMsgSize: 1000})
	raw, err := jetipc.NewSink[[]byte](t.Context(), js, "OUT", "test", jetipc.Encode(ipc.Raw))
	require.NoError(t, err)
	defer raw.Close()
	require.NoError(t, raw.Write(t.Context(), []pipeline.Item[[]byte]{{Record: make([]byte, 100<<10)}}))
	require.ErrorContains(t, within(t, func() error { return raw.Flush(t.Context()) }), "message size exceeds maximum")
	raw, err = jetipc.NewSink[[]byte](t.Context(), js, "OUT", "test", jetipc.Encode(ipc.Raw))
	require.NoError(t, err)
	defer raw.Close()
	require.ErrorIs(t, raw.Write(t.Context(), []pipeline.Item[[]byte]{{Record: make([]byte, 2<<20)}}), nats.ErrMaxPayload)

	s := newSink(t, js, "OUT", jetipc.Patience(5*time.Second))
	require.NoError(t, js.DeleteStream(t.Context(), "OUT"))
	require.NoError(t, s.Write(t.Context(), numbers(0, 10)))
	require.ErrorIs(t, within(t, func() error { return s.Flush(t.Context()) }), nats.ErrNoResponders)

	newStream(t, js, jetstream.StreamConfig{Name: "OUT"})
	s = newSink(t, js, "OUT")
	js.Conn().Close()
	err = s.Write(context.Background(), numbers(0, 10)) // which may find out already
	require.ErrorIs(t, errors.Join(err, within(t, func() error { return s.Flush(context.Background()) })), nats.ErrConnectionClosed)
}

// Answers that are lost or late make the sink publish again, and the stream has each record once.
func TestSinkPublishesAgain(t *testing.T) {
	s, sub, js := silent(t)
	require.NoError(t, s.Write(t.Context(), numbers(0, 10)))
	for range 10 {
		_, err := sub.NextMsg(time.Minute)
		require.NoError(t, err)
	}
	newStream(t, js, jetstream.StreamConfig{Name: "OUT"})
	require.NoError(t, within(t, func() error { return s.Flush(t.Context()) }))
	requireOnce(t, js, "OUT", 10)
	require.GreaterOrEqual(t, s.Stats().Again, uint64(10))
	require.Zero(t, s.Stats().InFlight+s.Stats().InFlightBytes)
}

// What cannot be sound is refused.
func TestSinkRefuses(t *testing.T) {
	js := connect(t, natstest.Start(t, nil).ClientURL())
	sink := func(subject, origin string, opts ...jetipc.SinkOption) error {
		s, err := jetipc.NewSink[uint64](t.Context(), js, subject, origin, opts...)
		if err == nil {
			_ = s.Close()
		}
		return err
	}
	require.ErrorIs(t, sink("OUT", "test"), jetstream.ErrStreamNotFound)
	newStream(t, js, jetstream.StreamConfig{Name: "OUT", Subjects: []string{"OUT"}, Duplicates: 30 * time.Second})
	require.ErrorContains(t, sink("OUT", "test"), "jetipc.Patience")
	require.NoError(t, sink("OUT", "test", jetipc.Patience(30*time.Second)))
	require.ErrorIs(t, sink("OUT", "test", jetipc.Forever()), jetstream.ErrStreamNotFound)
	newStream(t, js, jetstream.StreamConfig{Name: "MUTE", NoAck: true})
	require.ErrorContains(t, sink("MUTE", "test"), "NoAck")
	for _, bad := range []string{"", "a b", "a..b", "*", "a.>", "a\r\n", "ü"} {
		require.ErrorContains(t, sink(bad, "test"), "subject", fmt.Sprint(bad))
		require.ErrorContains(t, sink("OUT", bad), "origin", fmt.Sprint(bad))
	}
}
