package natsipc_test

import (
	"context"
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Readers that pause hold up their senders, with bounded memory on the way. NATS drops nothing, and all comes in order then.
func TestSlowReaders(t *testing.T) {
	const (
		streams, count, size = 8, 20_000, 1 << 10
		bound                = 4 << 20 // of a stream: both windows, and what is on the way
	)
	var dropped atomic.Int64
	noDrops := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { dropped.Add(1) })
	srv := natstest.Start(t, nil)
	nc, there := natstest.Connect(t, srv, noDrops), natstest.Connect(t, srv, noDrops)
	slow := ipc.NewServerStream[[]byte, []byte]("test.slow", ipc.WithCodec(ipc.Raw))
	var sent atomic.Int64
	s, _ := newServer()
	worker.HandleServerStream(s, slow, func(ctx context.Context, _ []byte, out *ipc.Sender[[]byte]) error {
		item := make([]byte, size)
		for i := range count {
			binary.LittleEndian.PutUint64(item, uint64(i))
			if err := out.Send(ctx, item); err != nil {
				return err
			}
			sent.Add(1)
		}
		return nil
	})
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	var all []*ipc.ServerStreamCall[[]byte]
	next := make([]uint64, streams)
	receive := func(i int) error {
		item, err := all[i].Receive(t.Context())
		if err == nil && binary.LittleEndian.Uint64(item) != next[i] {
			err = ipc.Errorf(ipc.CodeInternal, "stream %d: item %d has come for %d", i, binary.LittleEndian.Uint64(item), next[i])
		}
		next[i]++
		return err
	}
	for i := range streams {
		st, err := slow.Open(t.Context(), c, nil)
		require.NoError(t, err)
		defer st.Close()
		all = append(all, st)
		for range count / 4 { // so that the window has grown
			require.NoError(t, receive(i))
		}
	}
	still := 0 // looks at which nothing was sent since the last one
	for before := int64(-1); still < 20; time.Sleep(5 * time.Millisecond) {
		if now := sent.Load(); now == before {
			still++
		} else {
			before, still = now, 0
		}
	}
	require.Less(t, (sent.Load()-streams*count/4)*size, int64(streams*bound), "nobody reads, and it is sent all the same")
	failed := make([]error, streams)
	var both sync.WaitGroup
	for i := range streams {
		both.Go(func() {
			for failed[i] == nil {
				failed[i] = receive(i)
			}
		})
	}
	both.Wait()
	for i, err := range failed {
		require.Equal(t, io.EOF, err)
		require.EqualValues(t, count+1, next[i])
	}
	require.Zero(t, dropped.Load())
}
