package engine

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var someMeta = drivers.NewMetadata(ipc.Pairs("a", "b"), ipc.Pairs("c", "d"))

// However a handler ends, its answer has the metadata that it has set, and no answer has that
// of another.
func TestMetadataOfEveryAnswer(t *testing.T) {
	ways := map[string]func(*Handler){
		"as it comes": func(*Handler) {}, "inline": (*Handler).Inline, "one at a time": oneAtATime, "four at a time": func(h *Handler) { h.Concurrent(4) },
	}
	for name, way := range ways {
		for _, inPlace := range []bool{false, true} {
			t.Run(map[bool]string{false: name, true: name + " in place"}[inPlace], func(t *testing.T) {
				act := func(ctx context.Context, b []byte) error {
					md := ipc.MetadataOf(ctx)
					for i := range md {
						if err := ipc.SetTrailer(ctx, md[i].Key, md[i].Value); err != nil {
							return err
						}
					}
					switch string(b) {
					case "fail":
						return errors.New("failed")
					case "panic":
						panic("a handler")
					case "exit":
						runtime.Goexit()
					}
					return nil
				}
				reg := new(Registry)
				m := ipc.NewMethod[[]byte, []byte]("m", ipc.WithCodec(ipc.Raw))
				if inPlace {
					handleInPlace(reg, m, func(ctx context.Context, r *Request) error { return act(ctx, r.Payload()) }, way)
				} else {
					handle(reg, m, func(ctx context.Context, b []byte) ([]byte, error) { return nil, act(ctx, b) }, way)
				}
				host, _ := newSessionPair(t, reg)
				for i := range 200 {
					how := []string{"", "fail", "panic", "exit", ""}[i%5]
					var trailer ipc.Metadata
					opts := []ipc.CallOption{ipc.WithTrailer(&trailer)}
					var want ipc.Metadata
					if i%3 > 0 {
						want = ipc.Pairs("n", strings.Repeat("x", i))
						opts = append(opts, ipc.WithMetadata("n", want.Get("n")))
					}
					_, err := m.Call(t.Context(), host, []byte(how), opts...)
					if how == "" {
						require.NoError(t, err)
					} else {
						require.Error(t, err)
					}
					require.Equal(t, want, trailer)
				}
				require.Zero(t, host.calls.pending())
			})
		}
	}
}

// A handler that keeps its context cannot change an answer that was sent.
func TestMetadataAfterTheEnd(t *testing.T) {
	var kept context.Context
	reg := new(Registry)
	handle(reg, echo, func(ctx context.Context, b []byte) ([]byte, error) {
		kept = ctx
		return b, ipc.SetHeader(ctx, "a", "b")
	})
	host, _ := newSessionPair(t, reg)
	var header ipc.Metadata
	_, err := echo.Call(t.Context(), host, nil, ipc.WithHeader(&header))
	require.NoError(t, err)
	<-kept.Done()
	err = ipc.SetHeader(kept, "c", "d")
	require.Equal(t, ipc.CodeFailedPrecondition, ipc.CodeOf(err))
	require.Equal(t, ipc.Pairs("a", "b"), header)
}

// Metadata where there is none by the protocol does no harm, or ends the link.
func TestMetadataWhereNoneBelongs(t *testing.T) {
	reg := new(Registry)
	handle(reg, echo, returnIt)
	s, l := newTestSession(t, reg)
	for _, kind := range []drivers.Kind{drivers.KindCancel, drivers.KindPing, drivers.KindPong} {
		l.push(drivers.Frame{Kind: kind, Meta: someMeta})
	}
	l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: 1 << 30, Meta: someMeta}) // to nobody
	l.push(drivers.Frame{Kind: drivers.KindCredit, Payload: drivers.AppendCredit(nil, 0, 0), Meta: someMeta})
	l.push(drivers.Frame{Kind: drivers.KindRequest, Tx: 3, Method: 99, Meta: someMeta}) // unknown
	l.push(drivers.Frame{Kind: drivers.KindNotify, Method: 99, Meta: someMeta})
	request, result := start(t, s, l)
	for request.Kind != drivers.KindRequest { // a pong and a refusal come before
		require.Nil(t, request.Meta)
		request = <-l.sent
	}
	l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: request.Tx, Payload: []byte("answer"), Meta: someMeta}) // nobody asked for it
	require.NoError(t, <-result)

	l.push(drivers.Frame{Kind: drivers.KindNotify, Tx: 1, Method: echo.Info().ID, Payload: drivers.AppendItem(nil, nil), Meta: someMeta})
	<-s.Done()
	require.ErrorIs(t, s.Err(), ipc.ErrProtocol)
	require.ErrorContains(t, s.Err(), "with metadata")
}

// Metadata counts in windows for what it takes, so a peer cannot make us hold more than they
// say.
func TestWindowsCountMetadata(t *testing.T) {
	most := drivers.NewMetadata(ipc.Pairs("k", strings.Repeat("v", ipc.MaxMetadata-33)), nil)
	for _, kind := range []drivers.Kind{drivers.KindRequest, drivers.KindNotify} {
		plain := drivers.Frame{Kind: kind, Payload: []byte("x")}
		full := plain
		full.Meta = most
		require.Equal(t, costOf(&plain)+ipc.MaxMetadata, costOf(&full))

		reg := new(Registry)
		block := make(chan struct{})
		handle(reg, echo, func(context.Context, []byte) ([]byte, error) { <-block; return nil, nil })
		s, l := newTestSession(t, reg)
		t.Cleanup(func() { close(block) })
		full.Method = echo.Info().ID
		frames := s.maxOpen()/costOf(&full) + 1
		for i := range uint64(frames) {
			if kind == drivers.KindRequest {
				full.Tx = i << 1
			}
			l.push(full)
		}
		<-s.Done()
		require.ErrorIs(t, s.Err(), ipc.ErrProtocol)
		require.ErrorContains(t, s.Err(), "not finished with")
	}
}

// The header of a stream comes once, or a peer could make it grow for ever.
func TestStreamHeaderComesOnce(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	m := ipc.NewServerStream[int, int]("m")
	var header ipc.Metadata
	st, err := m.Open(t.Context(), s, 1, ipc.WithHeader(&header))
	require.NoError(t, err)
	opened := <-l.sent
	require.Equal(t, drivers.KindOpen, opened.Kind)
	item := drivers.AppendItem(nil, []byte{7})
	l.push(drivers.Frame{Kind: drivers.KindItems, Tx: opened.Tx, Payload: item, Meta: drivers.NewMetadata(ipc.Pairs("a", "b"), nil)})
	n, err := st.Receive(t.Context())
	require.NoError(t, err)
	require.Equal(t, 7, n)
	require.Equal(t, ipc.Pairs("a", "b"), header)
	l.push(drivers.Frame{Kind: drivers.KindItems, Tx: opened.Tx, Payload: item, Meta: drivers.NewMetadata(ipc.Pairs("c", "d"), nil)})
	_, err = st.Receive(t.Context())
	require.ErrorIs(t, err, ipc.ErrProtocol)
	require.ErrorContains(t, err, "for the second time")
	require.Equal(t, ipc.Pairs("a", "b"), header)
}

// The metadata of all open streams is bounded, and what ends makes room.
func TestMetadataOfStreamsIsBounded(t *testing.T) {
	reg := new(Registry)
	m := ipc.NewBidiStream[int, int]("m")
	begun, block := make(chan int, 10_000), make(chan struct{})
	reg.Register(&Handler{Info: m.Info(), Stream: func(ctx context.Context, _ *Stream, _ ipc.Stream) error {
		begun <- ipc.MetadataOf(ctx).Size()
		select {
		case <-block:
		case <-ctx.Done():
		}
		return nil
	}})
	host, worker := newSessionPair(t, reg)
	most := strings.Repeat("v", ipc.MaxMetadata-33)
	room := worker.config.Window / ipc.MaxMetadata
	var open []*ipc.BidiStreamCall[int, int]
	for range room {
		st, err := m.Open(t.Context(), host, ipc.WithMetadata("k", most))
		require.NoError(t, err)
		require.Equal(t, ipc.MaxMetadata, <-begun)
		open = append(open, st)
	}
	st, err := m.Open(t.Context(), host, ipc.WithMetadata("k", "v"))
	require.NoError(t, err)
	_, err = st.Receive(t.Context())
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
	st, err = m.Open(t.Context(), host)
	require.NoError(t, err, "without metadata there is room")
	require.Zero(t, <-begun)
	st.Close()
	open[0].Close()
	require.Eventually(t, func() bool {
		worker.streams.mu.Lock()
		defer worker.streams.mu.Unlock()
		return worker.streams.meta == int64(room-1)*ipc.MaxMetadata
	}, time.Minute, time.Millisecond)
	_, err = m.Open(t.Context(), host, ipc.WithMetadata("k", "v"))
	require.NoError(t, err)
	require.Equal(t, 34, <-begun)
	close(block)
	require.Eventually(t, func() bool {
		worker.streams.mu.Lock()
		defer worker.streams.mu.Unlock()
		return worker.streams.meta == 0 && len(worker.streams.peers) == 0
	}, time.Minute, time.Millisecond)
}
