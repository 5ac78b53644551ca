package flow

import (
	"context"
	"encoding/binary"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
)

// listen makes a port on a connection, until the test ends.
func listen(t *testing.T, nc *nats.Conn, base string, c Config) *Port {
	t.Helper()
	p, err := Listen(nc, base, c)
	require.NoError(t, err)
	require.NoError(t, nc.Flush(), "the server knows of it")
	t.Cleanup(func() { p.Close(ipc.ErrClosed) })
	return p
}

// Over NATS, items go both ways at once, in order, and nothing is left.
func TestListen(t *testing.T) {
	srv := natstest.Start(t, nil)
	here, there := natstest.Connect(t, srv), natstest.Connect(t, srv)
	c := Config{Beat: patient}
	pa, pb := listen(t, here, "a", c), listen(t, there, "b", c)
	a, b := connect(t, pa, pb)
	const count = 20_000
	var both sync.WaitGroup
	sends := func(f *Flow) error {
		for i := range count {
			if err := f.Send(t.Context(), binary.LittleEndian.AppendUint64(make([]byte, i%500), uint64(i))); err != nil {
				return err
			}
		}
		return f.CloseSend(t.Context())
	}
	receives := func(f *Flow) (n int, err error) {
		for ; ; n++ {
			item, err := f.Receive(t.Context())
			if err != nil {
				return n, err
			}
			if len(item) != n%500+8 || binary.LittleEndian.Uint64(item[n%500:]) != uint64(n) {
				return n, errProgram
			}
		}
	}
	var sent [2]error
	var got [2]int
	var end [2]error
	for i, f := range []*Flow{a, b} {
		both.Go(func() { sent[i] = sends(f) })
		both.Go(func() { got[i], end[i] = receives(f) })
	}
	both.Wait()
	require.Equal(t, [2]error{}, sent)
	require.Equal(t, [2]int{count, count}, got)
	require.Equal(t, [2]error{io.EOF, io.EOF}, end)
	b.End(t.Context(), nil, nil)
	<-a.Done()
	require.Zero(t, pa.Len()+pb.Len())
	require.Equal(t, 1, here.NumSubscriptions())
	pa.Close(ipc.ErrClosed)
	require.Zero(t, here.NumSubscriptions())
}

// A flow whose opening reaches nobody ends at once.
func TestListenNobody(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	p := listen(t, nc, "a", Config{Beat: patient})
	f, err := p.Open("b.", nil)
	require.NoError(t, err)
	require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: "nobody.here", Reply: f.Subject()}))
	require.ErrorIs(t, f.Opened(t.Context()), nats.ErrNoResponders)
	eventually(t, "nothing is left", func() bool { return p.Len() == 0 })
}

// What nats.go drops, as nobody takes it from a subscription in time, ends the flow, also if nothing follows.
func TestListenDropped(t *testing.T) {
	srv := natstest.Start(t, nil)
	slow := make(chan struct{}, 1)
	here := natstest.Connect(t, srv)
	there := natstest.Connect(t, srv, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { signal(slow) }))
	c := Config{Beat: patient}
	pa, pb := listen(t, here, "a", c), listen(t, there, "b", c)
	a, b := connect(t, pa, pb)
	require.NoError(t, pb.sub.SetPendingLimits(2, 1<<20))
	pb.mu.Lock() // Deliver waits
	for i := range 100 {
		require.NoError(t, a.Send(t.Context(), []byte{byte(i)}))
		require.NoError(t, a.Flush(t.Context()))
	}
	select {
	case <-slow:
	case <-time.After(30 * time.Second):
		t.Fatal("nothing is dropped")
	}
	pb.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	eventually(t, "what there is has come", func() bool { n, _, _ := pb.sub.Pending(); return n == 0 })
	a.tick() // its beat says that there was more
	var err error
	for n := 0; err == nil; n++ {
		var item []byte
		if item, err = b.Receive(ctx); err == nil {
			require.Equal(t, []byte{byte(n)}, item)
		}
	}
	require.NoError(t, ctx.Err(), "the flow goes on")
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err), "%v", err)
	require.ErrorIs(t, err, ipc.ErrDisconnected)
	eventually(t, "the sender is told", func() bool { return a.Err() != nil })
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(a.Err()))
}

// A closed connection ends flows on its side at once, and the other side by its beats.
func TestListenClosed(t *testing.T) {
	srv := natstest.Start(t, nil)
	here, there := natstest.Connect(t, srv), natstest.Connect(t, srv)
	pa, pb := listen(t, here, "a", Config{Beat: patient}), listen(t, there, "b", Config{Beat: patient})
	a, b := connect(t, pa, pb)
	here.Close()
	require.ErrorIs(t, ends(t, a), ipc.ErrDisconnected)
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(a.Err()))
	_, err := pa.Open("b.", nil)
	require.ErrorIs(t, err, ipc.ErrDisconnected)
	for range Misses + 1 {
		b.tick()
	}
	require.ErrorIs(t, ends(t, b), ipc.ErrPeerGone)
	require.Zero(t, pb.Len())
}

// Headers, which no window counts, are not kept with what has come.
func TestHeadersAreNotKept(t *testing.T) {
	srv := natstest.Start(t, nil)
	here, there := natstest.Connect(t, srv), natstest.Connect(t, srv)
	pa, pb := listen(t, here, "a", Config{Beat: patient}), listen(t, there, "b", Config{Beat: patient})
	_, b := connect(t, pa, pb)
	require.NoError(t, here.PublishMsg(&nats.Msg{
		Subject: b.Subject(), Header: nats.Header{"X": {strings.Repeat("x", 500<<10)}}, Data: raw(kindItems, 1, Initial, items("y")),
	}))
	eventually(t, "it has come", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.in.arrivals) == 0 {
			return false
		}
		require.Less(t, cap(b.in.arrivals[0].body), 1000)
		return true
	})
	require.Equal(t, "y", receive(t, b))
}
