//go:build unix

package worker_test

import (
	"context"
	"io"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// lettered is an item with a buffer, and perhaps a file, which is a pipe.
type lettered struct {
	N    int
	B    ipc.Buffer
	More []ipc.Buffer
	Pipe ipc.File
}

func (l lettered) release() {
	l.B.Release()
	for _, b := range l.More {
		b.Release()
	}
	l.Pipe.Close()
}

var (
	letterDown = ipc.NewServerStream[lettered, lettered]("letter.down") // N times what it gets
	letterUp   = ipc.NewClientStream[lettered, lettered]("letter.up")   // the last one
	letterBoth = ipc.NewBidiStream[lettered, lettered]("letter.both")
)

// flipped changes all bytes of each item by a mask, and knows nothing of attachments.
type flipped struct {
	ipc.Stream
	mask byte
}

func (f flipped) flip(b []byte) []byte {
	b = slices.Clone(b)
	for i := range b {
		b[i] ^= f.mask
	}
	return b
}

func (f flipped) Send(ctx context.Context, item []byte) error {
	type key struct{}
	return f.Stream.Send(context.WithValue(ctx, key{}, "x"), f.flip(item))
}

func (f flipped) Receive(ctx context.Context) ([]byte, error) {
	b, err := f.Stream.Receive(ctx)
	return f.flip(b), err
}

// seeing counts what goes through it, and knows of attachments.
type seeing struct {
	ipc.AttachedStream
	buffers *int
	mu      *sync.Mutex
}

func (s seeing) SendAttached(ctx context.Context, item []byte, a *ipc.Attachments) error {
	s.mu.Lock()
	if a != nil {
		*s.buffers += len(a.Buffers)
	}
	s.mu.Unlock()
	return s.AttachedStream.SendAttached(ctx, item, a)
}

// skipping receives each item twice, but for the first.
type skipping struct {
	ipc.Stream
	first bool
}

func (s *skipping) Receive(ctx context.Context) ([]byte, error) {
	if s.first {
		s.first = false
		return s.Stream.Receive(ctx)
	}
	if b, err := s.Stream.Receive(ctx); err != nil {
		return b, err
	}
	return s.Stream.Receive(ctx)
}

// dropping sends each second item.
type dropping struct {
	ipc.Stream
	n int
}

func (d *dropping) Send(ctx context.Context, item []byte) error {
	if d.n++; d.n%2 == 0 {
		return nil
	}
	return d.Stream.Send(ctx, item)
}

// contextless loses the context of Send.
type contextless struct{ ipc.Stream }

func (c contextless) Send(_ context.Context, item []byte) error {
	return c.Stream.Send(context.Background(), item)
}

// wrapsIn returns an interceptor whose function is f.
func wrapsIn(f func(s ipc.Stream) ipc.Stream) ipc.Interceptor {
	return ipc.Interceptor{Stream: func(_ context.Context, _ *ipc.Call, s ipc.Stream) ipc.Stream { return f(s) }}
}

// flips changes no bytes where there is a first item, which only the side of the handler sees.
var flips = ipc.Interceptor{Stream: func(_ context.Context, call *ipc.Call, s ipc.Stream) ipc.Stream {
	if call.Method.Name == "letter.down" {
		return flipped{s, 0}
	}
	return flipped{s, 0x5a}
}}

func init() {
	serve := func(list ...ipc.Interceptor) error {
		s := worker.NewServer(worker.WithServerInterceptors(list...))
		worker.HandleServerStream(s, letterDown, func(ctx context.Context, l lettered, out *ipc.Sender[lettered]) error {
			for i := range l.N {
				item := l
				item.N = i
				if err := out.Send(ctx, item); err != nil {
					return err
				}
			}
			return nil
		})
		worker.HandleClientStream(s, letterUp, func(ctx context.Context, in *ipc.Receiver[lettered]) (last lettered, err error) {
			for l, err := range in.All(ctx) {
				if err != nil {
					return last, err
				}
				last.release()
				last = l
			}
			return last, nil
		})
		worker.HandleBidiStream(s, letterBoth, func(ctx context.Context, in *ipc.Receiver[lettered], out *ipc.Sender[lettered]) error {
			for l, err := range in.All(ctx) {
				if err != nil {
					return err
				}
				err := out.Send(ctx, l)
				l.release()
				if err != nil {
					return err
				}
			}
			return nil
		})
		return s.Serve(context.Background())
	}
	entries["letters"] = func() error { return serve() }
	entries["flipped letters"] = func() error { return serve(flips) }
}

// exchangeLetters sends and receives items with attachments in all kinds of streams.
func exchangeLetters(t *testing.T, w client, arena *ipc.Arena) {
	t.Helper()
	r, p, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer p.Close()
	letter := lettered{B: filledBuffer(t, arena, 3000, 1), More: []ipc.Buffer{filledBuffer(t, arena, 7, 2)}, Pipe: ipc.NewFile(p)}
	defer func() {
		letter.B.Release()
		letter.More[0].Release()
	}()
	check := func(n int, l lettered) {
		t.Helper()
		require.Equal(t, n, l.N)
		requireFilled(t, l.B, 3000, 1)
		requireFilled(t, l.More[0], 7, 2)
		f := l.Pipe.Take()
		_, err := f.WriteString("x")
		require.NoError(t, err)
		require.NoError(t, f.Close())
		_, err = io.ReadFull(r, make([]byte, 1))
		require.NoError(t, err)
		l.release()
	}
	letter.N = 5
	n := 0
	for l, err := range letterDown.Stream(t.Context(), w, letter) {
		require.NoError(t, err)
		check(n, l)
		n++
	}
	require.Equal(t, 5, n)

	up, err := letterUp.Open(t.Context(), w)
	require.NoError(t, err)
	for i := range 5 {
		letter.N = i
		require.NoError(t, up.Send(t.Context(), letter))
	}
	last, err := up.CloseAndReceive(t.Context())
	require.NoError(t, err)
	check(4, last)

	both, err := letterBoth.Open(t.Context(), w)
	require.NoError(t, err)
	for i := range 5 {
		letter.N = i
		require.NoError(t, both.Send(t.Context(), letter))
		l, err := both.Receive(t.Context())
		require.NoError(t, err)
		check(i, l)
		require.NoError(t, both.Send(t.Context(), lettered{N: -i}))
		l, err = both.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, lettered{N: -i}, l)
	}
	require.NoError(t, both.CloseSend(t.Context()))
	_, err = both.Receive(t.Context())
	require.Equal(t, io.EOF, err)
	letter.B.Release()
	letter.More[0].Release()
	eventually(t, "all buffers are free", func() bool { return arena.Stats().Buffers == 0 })
}

// What an interceptor puts around a stream need not know of attachments, on either side, alone or with others around it
// and inside of it.
func TestWrappedStreamsHaveAttachments(t *testing.T) {
	var seen int
	var mu sync.Mutex
	sees := func(s ipc.Stream) ipc.Stream { return seeing{s.(ipc.AttachedStream), &seen, &mu} }
	same := func(s ipc.Stream) ipc.Stream { return s }
	nothing := ipc.Interceptor{Call: func(ctx context.Context, _ *ipc.Call, next func(context.Context) error) error { return next(ctx) }}
	for name, way := range map[string]struct {
		entry string
		list  []ipc.Interceptor
		seen  bool
	}{
		"one":                     {"flipped letters", []ipc.Interceptor{flips}, false},
		"three":                   {"flipped letters", []ipc.Interceptor{flips, flips, flips}, false},
		"two, and others":         {"letters", []ipc.Interceptor{flips, nothing, wrapsIn(same), flips}, false},
		"around one that sees":    {"flipped letters", []ipc.Interceptor{flips, wrapsIn(sees)}, true},
		"inside of one that sees": {"flipped letters", []ipc.Interceptor{wrapsIn(sees), flips, nothing}, true},
	} {
		t.Run(name, func(t *testing.T) {
			eachBufferDriver(t, func(t *testing.T, s spawner) {
				arena := newArena(t, ipc.ArenaOptions{})
				seen = 0
				w, err := s.spawn(t.Context(), worker.Self(way.entry), worker.WithArena(arena), worker.WithInterceptors(way.list...))
				require.NoError(t, err)
				defer w.Close()
				exchangeLetters(t, w, arena)
				if way.seen {
					require.Equal(t, 2*(5+5), seen, "what the host has sent but for first items")
				}
				require.NoError(t, w.Close())
				require.Zero(t, w.Forgotten())
			})
		})
	}
}

// Wrappers that leave items out release what those had.
func TestWrappersThatLeaveItemsOut(t *testing.T) {
	eachBufferDriver(t, func(t *testing.T, s spawner) {
		arena := newArena(t, ipc.ArenaOptions{})
		w, err := s.spawn(t.Context(), worker.Self("letters"), worker.WithArena(arena),
			worker.WithInterceptors(wrapsIn(func(s ipc.Stream) ipc.Stream { return &skipping{s, true} }), wrapsIn(func(s ipc.Stream) ipc.Stream { return &dropping{Stream: s} })))
		require.NoError(t, err)
		defer w.Close()
		both, err := letterBoth.Open(t.Context(), w)
		require.NoError(t, err)
		for i := range 9 { // of which 0, 2, 4, 6 and 8 come back, and 2 and 6 are skipped
			l := lettered{N: i, B: filledBuffer(t, arena, 100+i, i)}
			require.NoError(t, both.Send(t.Context(), l))
			l.release()
		}
		require.NoError(t, both.CloseSend(t.Context()))
		for _, n := range []int{0, 4, 8} {
			l, err := both.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, n, l.N)
			requireFilled(t, l.B, 100+n, n)
			l.release()
		}
		_, err = both.Receive(t.Context())
		require.Equal(t, io.EOF, err)
		eventually(t, "all buffers are free", func() bool { return arena.Stats().Buffers == 0 })
		require.NoError(t, w.Close())
		require.Zero(t, w.Forgotten())
	})
}

// A wrapper that loses the context of an item with attachments is told so, and items without are sent.
func TestWrapperThatLosesContexts(t *testing.T) {
	eachBufferDriver(t, func(t *testing.T, s spawner) {
		arena := newArena(t, ipc.ArenaOptions{})
		w, err := s.spawn(t.Context(), worker.Self("letters"), worker.WithArena(arena), worker.WithInterceptors(wrapsIn(func(s ipc.Stream) ipc.Stream { return contextless{s} })))
		require.NoError(t, err)
		defer w.Close()
		both, err := letterBoth.Open(t.Context(), w)
		require.NoError(t, err)
		defer both.Close()
		require.NoError(t, both.Send(t.Context(), lettered{N: 1}))
		l, err := both.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, l.N)
		b := filledBuffer(t, arena, 100, 1)
		defer b.Release()
		err = both.Send(t.Context(), lettered{N: 2, B: b})
		require.Equal(t, ipc.CodeFailedPrecondition, ipc.CodeOf(err))
		require.ErrorContains(t, err, "worker_test.contextless")
		require.ErrorContains(t, err, "pass the context on, or to be an ipc.AttachedStream (SendAttached and Attachments)")
	})
}

// bareCaller opens streams that are nothing but streams.
type bareCaller struct{ client }

func (c bareCaller) OpenStream(ctx context.Context, call *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	s, err := c.client.(ipc.StreamCaller).OpenStream(ctx, call, o)
	return struct{ ipc.Stream }{s}, err
}

// A stream that somebody else has wrapped says what it lacks, for items with attachments, in both directions.
func TestStreamWithoutAttachments(t *testing.T) {
	eachBufferDriver(t, func(t *testing.T, s spawner) {
		arena := newArena(t, ipc.ArenaOptions{})
		w, err := s.spawn(t.Context(), worker.Self("letters"), worker.WithArena(arena))
		require.NoError(t, err)
		defer w.Close()
		both, err := letterBoth.Open(t.Context(), bareCaller{w})
		require.NoError(t, err)
		defer both.Close()
		require.NoError(t, both.Send(t.Context(), lettered{N: 1}))
		l, err := both.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, lettered{N: 1}, l)
		b := filledBuffer(t, arena, 100, 1)
		defer b.Release()
		lacks := func(err error) {
			t.Helper()
			require.ErrorIs(t, err, ipc.ErrUnsupported)
			require.ErrorContains(t, err, "no ipc.AttachedStream: it has to forward SendAttached and Attachments")
		}
		lacks(both.Send(t.Context(), lettered{N: 2, B: b}))
		down, err := letterDown.Open(t.Context(), bareCaller{w}, lettered{N: 1, B: b})
		require.NoError(t, err)
		_, err = down.Receive(t.Context())
		lacks(err)
	})
}
