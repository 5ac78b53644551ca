//go:build unix

package natsipc_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
)

// packed returns a parcel with buffers of these sizes, and what contents has of it.
func packed(t *testing.T, a *ipc.Arena, sizes ...int) (parcel, []string) {
	t.Helper()
	p := parcel{Name: fmt.Sprint(sizes)}
	for i, n := range sizes {
		b, err := a.Alloc(t.Context(), n)
		require.NoError(t, err)
		copy(b.Bytes(), bytes.Repeat([]byte{byte('a' + i), byte(n)}, n/2+1))
		p.Some = append(p.Some, b)
	}
	return p, contents(p)
}

func contents(p parcel) []string {
	all := make([]string, 0, len(p.Some))
	for _, b := range p.Some {
		all = append(all, string(b.Bytes()))
	}
	return all
}

func (p parcel) release() {
	for _, b := range p.Some {
		b.Release()
	}
}

// equal is require.Equal that prints no megabytes.
func equal(t *testing.T, want, got []string) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.True(t, want[i] == got[i], "buffer %d: %d bytes, want %d", i, len(got[i]), len(want[i]))
	}
}

// The bytes of buffers travel, of all sizes, in calls and in all kinds of streams, from the handlers of this process and from those
// of workers on each driver; nothing is left of them in the arenas.
func TestBuffers(t *testing.T) {
	srv := natstest.Start(t, func(o *server.Options) { o.MaxPayload, o.MaxPending = payload, 64<<20 })
	nc := natstest.Connect(t, srv)
	s, _ := newServer()
	t.Run("local", func(t *testing.T) {
		testBuffers(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	})
	for driver, begin := range workerPools {
		t.Run(driver, func(t *testing.T) {
			p, end := begin(t)
			defer func() { require.NoError(t, end()) }()
			testBuffers(t, nc, func(ctx context.Context) error { return natsipc.Forward(ctx, nc, p, service) })
		})
	}
}

func testBuffers(t *testing.T, nc *nats.Conn, run func(ctx context.Context) error) {
	arena := ipc.NewArena(ipc.ArenaOptions{})
	defer func() { require.NoError(t, arena.Close()) }()
	if b, err := arena.Alloc(t.Context(), 1); err != nil {
		t.Skip(err)
	} else {
		b.Release()
	}
	stop := serve(t, nc, run)
	defer func() { require.NoError(t, stop()) }()
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	for _, sizes := range [][]int{{}, {0}, {1}, {10, 0, 20}, {payload / 2}, {payload - 300}, {payload}, {100, payload, 100_000}, {3 << 20, 1, 2 << 20}} {
		t.Run(fmt.Sprint(sizes), func(t *testing.T) {
			p, want := packed(t, arena, sizes...)
			defer p.release()
			turned := make([]string, 0, len(want)+1)
			for i := range want {
				turned = append(turned, want[len(want)-1-i])
			}
			turned = append(turned, "added")

			back, err := parcels.Call(t.Context(), c, p)
			require.NoError(t, err)
			require.Equal(t, p.Name+"!", back.Name)
			equal(t, turned, contents(back))
			back.release()

			tour, err := parcelTour.Open(t.Context(), c)
			require.NoError(t, err)
			for range 3 {
				require.NoError(t, tour.Send(t.Context(), p))
				require.NoError(t, tour.Flush(t.Context()))
				back, err := tour.Receive(t.Context())
				require.NoError(t, err)
				equal(t, turned, contents(back))
				back.release()
			}
			require.NoError(t, tour.CloseSend(t.Context()))
			_, err = tour.Receive(t.Context())
			require.ErrorIs(t, err, io.EOF)

			n := 0
			for back, err := range parcelsDown.Stream(t.Context(), c, p) {
				require.NoError(t, err)
				equal(t, want, contents(back))
				back.release()
				n++
			}
			require.Len(t, sizes, n)

			up, err := parcelsUp.Open(t.Context(), c)
			require.NoError(t, err)
			var last []string
			for range 3 {
				require.NoError(t, up.Send(t.Context(), p))
				if len(want) > 0 {
					last = append(last, want[len(want)-1])
				}
			}
			back, err = up.CloseAndReceive(t.Context())
			require.NoError(t, err)
			equal(t, last, contents(back))
			back.release()

			if len(sizes) == 1 {
				b, err := bareBuffer.Call(t.Context(), c, p.Some[0])
				require.NoError(t, err)
				equal(t, want, []string{string(b.Bytes())})
				b.Release()
			}
		})
	}
	require.Zero(t, arena.Stats().Buffers)
	require.Zero(t, arena.Stats().Forgotten)
}

// Files, and buffers that are too large, are refused on either way, and the next call is none the worse.
func TestAttachmentsRefused(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, _ := newServer()
	svc := service
	svc.MaxMessage = 1 << 20
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, svc) })
	c := natsipc.Caller(nc, "test", natsipc.WithMaxMessage(2<<20))
	defer c.Close()
	arena := ipc.NewArena(ipc.ArenaOptions{})
	defer arena.Close()
	if _, err := arena.Alloc(t.Context(), 1); err != nil {
		t.Skip(err)
	}

	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	file := ipc.NewFile(f)
	defer file.Close()
	_, err = fileCall.Call(t.Context(), c, file)
	require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(err), "%v", err)
	require.ErrorIs(t, err, ipc.ErrUnsupported)
	_, err = fileBack.Call(t.Context(), c, 1)
	require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(err), "%v", err)

	large, _ := packed(t, arena, 2<<20)
	defer large.release()
	_, err = parcels.Call(t.Context(), c, large) // the caller's limit
	var size *ipc.SizeError
	require.ErrorAs(t, err, &size)
	medium, _ := packed(t, arena, 1<<20)
	defer medium.release()
	_, err = parcels.Call(t.Context(), c, medium) // the service's
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err), "%v", err)
	tour, err := parcelTour.Open(t.Context(), c)
	require.NoError(t, err)
	require.ErrorAs(t, tour.Send(t.Context(), large), &size)
	small, want := packed(t, arena, 10)
	defer small.release()
	require.NoError(t, tour.Send(t.Context(), small))
	require.NoError(t, tour.Flush(t.Context()))
	back, err := tour.Receive(t.Context())
	require.NoError(t, err)
	equal(t, append(want, "added"), contents(back))
	back.release()
	tour.Close()
	back, err = parcels.Call(t.Context(), c, small)
	require.NoError(t, err)
	back.release()
}

// A request that says that it has buffers, and has none, is refused, and so is an item.
func TestHostileBuffers(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, _ := newServer()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	for _, method := range []struct {
		subject string
		id      uint64
		stream  string
	}{{"tandem.test.call.test.parcels", parcels.Info().ID, ""}, {"tandem.test.stream.test.parcels_down", parcelsDown.Info().ID, "65536 -fo"}} {
		for _, b := range []string{"", "\xff\xff\xff\xff", "\x01\x00\x00\x00", "\x80\x01\x00\x00\x00", "x\x01\x02\x02\x00\x00\x00", "\x01\x01\x00\x00\x00"} {
			m := &nats.Msg{Subject: method.subject, Data: []byte(b), Header: nats.Header{"Tandem-Call": {fmt.Sprintf("1 %x cbor le 0 1000000000 0 -a", method.id)}}}
			if method.stream != "" {
				m.Header.Set("Tandem-Stream", method.stream)
				within(t, refused(t, nc, m))
				continue
			}
			answer := ask(t, nc, m)
			require.Equal(t, "error", answer.Header.Get("Tandem-Answer"), "%q", b)
			require.ErrorContains(t, ipc.ParseError(answer.Data), "malformed buffers")
		}
	}
}

// refused opens a stream, and tells when it has ended with an error of the protocol.
func refused(t *testing.T, nc *nats.Conn, m *nats.Msg) <-chan struct{} {
	t.Helper()
	done := make(chan struct{}, 10)
	m.Reply = nc.NewInbox()
	sub, err := nc.Subscribe(m.Reply, func(m *nats.Msg) {
		if bytes.Contains(m.Data, []byte("malformed buffers")) {
			done <- struct{}{}
		}
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	require.NoError(t, nc.PublishMsg(m))
	return done
}
