package natsipc_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// A sender is as far ahead of a reader that pauses as the reader's window says, in both directions.
func TestStreamWindow(t *testing.T) {
	const (
		size   = 8 << 10
		enough = 64 << 20 / size // until then windows grow
	)
	srv := natstest.Start(t, nil)
	there := natstest.Connect(t, srv)
	both := ipc.NewBidiStream[[]byte, []byte]("test.both_ways", ipc.WithCodec(ipc.Raw))
	for window, name := range map[int]string{natsipc.MinStreamWindow: "least", 0: "default", 8 << 20: "large"} {
		s, _ := newServer()
		var received, sent atomic.Int64 // by the handler
		pause := make(chan struct{})
		worker.HandleBidiStream(s, both, func(ctx context.Context, in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
			go func() {
				for item := make([]byte, size); out.Send(ctx, item) == nil; {
					sent.Add(1)
				}
			}()
			for received.Load() < enough {
				if _, err := in.Receive(ctx); err != nil {
					return err
				}
				received.Add(1)
			}
			<-pause
			return nil
		})
		svc := natsipc.Service{Name: "test", StreamWindow: window}
		stop := serve(t, natstest.Connect(t, srv), func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, svc) })
		var opts []natsipc.Option
		most := int64(1 << 20)
		if window > 0 {
			opts, most = append(opts, natsipc.WithStreamWindow(window)), int64(window)
		}
		c := natsipc.Caller(natstest.Connect(t, srv), "test", opts...)
		st, err := both.Open(t.Context(), c)
		require.NoError(t, err)
		var here, got atomic.Int64
		reads := make(chan error, 1)
		go func() {
			for got.Load() < enough {
				if _, err := st.Receive(t.Context()); err != nil {
					reads <- err
					return
				}
				got.Add(1)
			}
			reads <- nil
		}()
		ctx, cancel := context.WithCancel(t.Context())
		sends := make(chan error, 1)
		go func() {
			for item := make([]byte, size); ; {
				if err := st.Send(ctx, item); err != nil {
					sends <- err
					return
				}
				here.Add(1)
			}
		}()
		require.NoError(t, within(t, reads))
		// The handler has stopped reading, too, after as many.
		down := func() int64 { return (sent.Load() - got.Load()) * size }
		up := func() int64 { return (here.Load() - received.Load()) * size }
		require.Eventually(t, func() bool { return down() >= most/2 && up() >= most/2 }, time.Minute, time.Millisecond, name)
		time.Sleep(200 * time.Millisecond)
		// Of NATS, and between that and the handler. Besides: a frame that is gathered, and what the reader has taken of its last one.
		require.LessOrEqual(t, down(), 2*most+(128<<10), name)
		require.LessOrEqual(t, up(), 2*most+(128<<10), name)
		cancel()
		require.ErrorIs(t, within(t, sends), context.Canceled)
		close(pause)
		st.Close()
		require.NoError(t, c.Close())
		require.NoError(t, stop())
	}
	for _, bad := range []int{natsipc.MinStreamWindow - 1, natsipc.MaxStreamWindow + 1, -1} {
		require.Panics(t, func() { natsipc.WithStreamWindow(bad) })
		require.ErrorContains(t, natsipc.Serve(t.Context(), there, nil, natsipc.Service{Name: "bad", StreamWindow: bad}), "window")
	}
}
