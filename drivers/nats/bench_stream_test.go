package natsipc_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

const (
	benchItem  = 1 << 10
	benchItems = 20_000  // of one turn
	benchOpen  = 1 << 20 // bytes that are sent and not acknowledged, at most: as of a stream
)

var (
	benchUp   = ipc.NewClientStream[[]byte, []byte]("bench.up", ipc.WithCodec(ipc.Raw))
	benchDown = ipc.NewServerStream[[]byte, []byte]("bench.down", ipc.WithCodec(ipc.Raw))
)

// acknowledged publishes the items of one turn as they are, and waits for acknowledgements.
type acknowledged struct {
	nc      *nats.Conn
	subject string
	acks    chan int
}

// newAcknowledged returns a publisher whose subscriber, at there, acknowledges each group of messages.
func newAcknowledged(b *testing.B, nc, there *nats.Conn, subject string, group int) *acknowledged {
	a := &acknowledged{nc, subject, make(chan int, benchItems)}
	n := 0
	sub, err := there.Subscribe(subject, func(m *nats.Msg) {
		if n++; n%group == 0 {
			_ = there.Publish(subject+".ack", binary.LittleEndian.AppendUint32(nil, uint32(group)))
		}
	})
	require.NoError(b, err)
	require.NoError(b, sub.SetPendingLimits(-1, -1))
	require.NoError(b, there.Flush())
	_, err = nc.Subscribe(subject+".ack", func(m *nats.Msg) { a.acks <- int(binary.LittleEndian.Uint32(m.Data)) })
	require.NoError(b, err)
	require.NoError(b, nc.Flush())
	return a
}

func (a *acknowledged) run(b *testing.B, item []byte) {
	open := 0
	for range benchItems {
		for open+len(item) > benchOpen {
			open -= len(item) * <-a.acks
		}
		if err := a.nc.Publish(a.subject, item); err != nil {
			b.Fatal(err)
		}
		open += len(item)
	}
	for open > 0 {
		open -= len(item) * <-a.acks
	}
}

// BenchmarkStream measures streams of items of 1 KiB, both ways, and plain messages with the same bytes, of which each one
// or each 32nd is acknowledged, in turns. The figures are MB/s.
func BenchmarkStream(b *testing.B) {
	srv := natstest.Start(b, nil)
	nc, there := natstest.Connect(b, srv), natstest.Connect(b, srv)
	s, _ := newServer()
	worker.HandleClientStream(s, benchUp, func(ctx context.Context, in *ipc.Receiver[[]byte]) ([]byte, error) {
		n := 0
		for item, err := range in.All(ctx) {
			if err != nil {
				return nil, err
			}
			n += len(item)
		}
		return binary.LittleEndian.AppendUint32(nil, uint32(n)), nil
	})
	worker.HandleServerStream(s, benchDown, func(ctx context.Context, item []byte, out *ipc.Sender[[]byte]) error {
		own := append([]byte(nil), item...)
		for range benchItems {
			if err := out.Send(ctx, own); err != nil {
				return err
			}
		}
		return nil
	})
	serve(b, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	each, group := newAcknowledged(b, nc, there, "plain.each", 1), newAcknowledged(b, nc, there, "plain.group", 32)
	item := make([]byte, benchItem)
	local, err := worker.Local(s)
	require.NoError(b, err)
	defer local.Close()

	up := func(c ipc.Caller) {
		st, err := benchUp.Open(b.Context(), c)
		require.NoError(b, err)
		for range benchItems {
			if err := st.Send(b.Context(), item); err != nil {
				b.Fatal(err)
			}
		}
		got, err := st.CloseAndReceive(b.Context())
		require.NoError(b, err)
		require.EqualValues(b, benchItems*benchItem, binary.LittleEndian.Uint32(got))
	}
	turns := []struct {
		name string
		run  func()
		took time.Duration
	}{
		{"plain", func() { each.run(b, item) }, 0},
		{"plain-32", func() { group.run(b, item) }, 0},
		{"up", func() { up(c) }, 0},
		{"down", func() {
			n := 0
			for got, err := range benchDown.Stream(b.Context(), c, item) {
				if err != nil {
					b.Fatal(err)
				}
				n += len(got)
			}
			require.Equal(b, benchItems*benchItem, n)
		}, 0},
		{"local-up", func() { up(local) }, 0},
	}
	for i := range turns {
		turns[i].run() // once for windows to grow
	}
	for b.Loop() {
		for i := range turns {
			began := time.Now()
			turns[i].run()
			turns[i].took += time.Since(began)
		}
	}
	for i := range turns {
		b.ReportMetric(float64(b.N)*benchItems*benchItem/1e6/turns[i].took.Seconds(), turns[i].name+"-MB/s")
	}
	b.ReportMetric(turns[0].took.Seconds()/turns[2].took.Seconds(), "up/plain")
	b.ReportMetric(turns[0].took.Seconds()/turns[3].took.Seconds(), "down/plain")
}
