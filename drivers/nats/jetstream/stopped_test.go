//go:build unix

package jetipc_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	jetipc "github.com/tandemipc/tandem/drivers/nats/jetstream"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// impatient are options of a connection that soon finds out that its server takes nothing.
var impatient = append(stubborn, nats.Timeout(time.Second), nats.FlusherTimeout(time.Second), nats.ReconnectOnFlusherError(),
	nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2))

// While the server is stopped, all that has a context ends with it, and Close returns. When it goes on, so do a sink and a source, and lose nothing.
func TestServerIsStopped(t *testing.T) {
	srv := startNATS(t)
	nc, err := nats.Connect(srv.url, impatient...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	patient := connect(t, srv.url)
	newStream(t, patient, jetstream.StreamConfig{Name: "OUT"})
	newConsumer(t, patient, "OUT", jetstream.ConsumerConfig{AckWait: time.Second})
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	consumer, err := js.Consumer(t.Context(), "OUT", "work")
	require.NoError(t, err)
	sink := func() *jetipc.Sink[[]byte] {
		s, err := jetipc.NewSink[[]byte](t.Context(), js, "OUT", "test", jetipc.InFlight(1<<10, 64<<20), jetipc.Encode(ipc.Raw))
		require.NoError(t, err)
		return s
	}
	first, second := sink(), sink()
	source, err := jetipc.NewSource[[]byte](t.Context(), js, consumer, jetipc.Decode(ipc.Raw))
	require.NoError(t, err)
	topic := ipc.NewTopic[[]byte]("test.bytes", ipc.WithCodec(ipc.Raw))
	subscription, err := jetipc.Open(t.Context(), js, "OUT", topic)
	require.NoError(t, err)
	items := make([]pipeline.Item[[]byte], 200)
	for i := range items {
		items[i] = pipeline.Item[[]byte]{ID: pipeline.ID{Pos: uint64(i)}, Record: make([]byte, 100<<10)}
	}

	require.NoError(t, srv.cmd.Process.Signal(syscall.SIGSTOP))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var got collector[[]byte]
	for _, f := range []func() error{
		func() error {
			if err := first.Write(ctx, items); err != nil {
				return err
			}
			return first.Flush(ctx)
		},
		func() error { _, err := subscription.Receive(ctx); return err },
		func() error { return pipeline.FromNumbered(source).Into(ctx, &got) },
		func() error { _, err := source.Pending(ctx); return err },
	} {
		require.ErrorIs(t, within(t, f), context.DeadlineExceeded)
	}
	require.NoError(t, within(t, second.Close))
	require.NoError(t, srv.cmd.Process.Signal(syscall.SIGCONT))

	require.NoError(t, within(t, func() error { return first.Write(t.Context(), items) })) // again, as a run does
	require.NoError(t, within(t, func() error { return first.Flush(t.Context()) }))
	require.NoError(t, first.Close())
	require.EqualValues(t, len(items), messages(t, js, "OUT"))
	for range items {
		_, err := subscription.Receive(t.Context())
		require.NoError(t, err)
	}
	drain, err := jetipc.NewSource[[]byte](t.Context(), js, consumer, jetipc.Decode(ipc.Raw), jetipc.Drain())
	require.NoError(t, err)
	require.NoError(t, within(t, func() error { return pipeline.FromNumbered(drain).Into(t.Context(), &got) }))
	require.Equal(t, len(items), got.len())
}
