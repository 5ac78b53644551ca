package engine

import (
	"context"
	"encoding/binary"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// narrowLink is a fake link whose peer is another one, with room for few frames, as a ring
// has. Its larger frames are the receiver's own.
type narrowLink struct {
	*fakeLink
	peer    *fakeLink
	room    int
	claimed *claimedFrame
}

// claimedFrame is a frame that is being built in a link; guarded by the peer's mu.
type claimedFrame struct {
	is    bool
	frame drivers.Frame
}

func (l narrowLink) Send(ctx context.Context, sent *drivers.Frame) error {
	f := *sent
	f.Payload = append([]byte(nil), f.Payload...)
	f.Owned = len(f.Payload) >= ownedChunk
	return l.await(ctx, func() {
		l.peer.in = append(l.peer.in, f)
		l.peer.change.Broadcast()
	})
}

// Claim implements [drivers.Claimer].
func (l narrowLink) Claim(ctx context.Context, f *drivers.Frame, n int) ([]byte, error) {
	if n > 20_000 {
		return nil, &ipc.SizeError{Size: n, Limit: 20_000}
	}
	b := make([]byte, n)
	err := l.await(ctx, func() {
		l.claimed.is, l.claimed.frame = true, *f
		l.claimed.frame.Payload = b
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Commit implements [drivers.Claimer].
func (l narrowLink) Commit(n int) {
	l.peer.mu.Lock()
	defer l.peer.mu.Unlock()
	f := l.claimed.frame
	f.Payload = append([]byte(nil), f.Payload[:n]...)
	l.claimed.is = false
	l.peer.in = append(l.peer.in, f)
	l.peer.change.Broadcast()
}

// Abort implements [drivers.Claimer].
func (l narrowLink) Abort() {
	l.peer.mu.Lock()
	l.claimed.is = false
	l.peer.mu.Unlock()
}

// await calls do when there is room, and nothing is claimed.
func (l narrowLink) await(ctx context.Context, do func()) error {
	for pause := time.Microsecond; ; pause = min(2*pause, 100*time.Microsecond) {
		l.mu.Lock()
		end := l.end
		l.mu.Unlock()
		if end != nil {
			return end
		}
		l.peer.mu.Lock()
		if len(l.peer.in) < l.room && !l.claimed.is {
			do()
			l.peer.mu.Unlock()
			return nil
		}
		l.peer.mu.Unlock()
		if err := ctx.Err(); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

func (l narrowLink) SendBatch(ctx context.Context, frames []drivers.Frame) (int, error) {
	for i := range frames {
		if err := l.Send(ctx, &frames[i]); err != nil {
			return i, err
		}
	}
	return len(frames), nil
}

// Recycle spoils the memory, which nobody may read any more.
func (l narrowLink) Recycle(b []byte) {
	for i := range b {
		b[i] = 0xcc
	}
}

// pairConfig says what the two sessions of a pair are like.
type pairConfig struct {
	room         int
	maxMessage   int
	window       int
	streamWindow int
}

// newStreamPair returns two sessions that talk over narrow links.
func newStreamPair(c pairConfig, reg *Registry) (host, worker *Session) {
	a, b := newFakeLink(), newFakeLink()
	a.volatile, b.volatile = true, true
	newSide := func(side uint64, l, peer *fakeLink) *Session {
		s := New(Config{
			Link: narrowLink{l, peer, c.room, new(claimedFrame)}, Side: side, Codec: ipc.CBOR, Timeout: time.Minute, AgreedTimeout: time.Minute,
			MaxMessage: c.maxMessage, Window: c.window, StreamWindow: c.streamWindow, Handlers: reg, Log: slog.New(slog.DiscardHandler),
		})
		s.Open()
		return s
	}
	return newSide(Host, a, b), newSide(Worker, b, a)
}

// roomy is a pair like any other.
var roomy = pairConfig{room: 1000, maxMessage: 1 << 20, window: drivers.DefaultWindow, streamWindow: drivers.DefaultStreamWindow}

// newPair is newStreamPair for a test, which closes the sessions.
func newPair(t *testing.T, c pairConfig, reg *Registry) (host, worker *Session) {
	t.Helper()
	host, worker = newStreamPair(c, reg)
	t.Cleanup(func() {
		host.Close(0)
		worker.Close(0)
	})
	return host, worker
}

// raw is the stream of the tests in this package.
var raw = ipc.NewBidiStream[[]byte, []byte]("engine.raw", ipc.WithCodec(ipc.Raw))

// handleStream registers a handler of raw.
func handleStream(reg *Registry, f func(context.Context, *Stream) error, opts ...func(*Handler)) {
	h := &Handler{Info: raw.Info()}
	h.Stream = func(ctx context.Context, own *Stream, _ ipc.Stream) error { return f(ctx, own) }
	for _, opt := range opts {
		opt(h)
	}
	reg.Register(h)
}

func rawCall() *ipc.Invocation { return &ipc.Invocation{Method: raw.Info()} }

// openRaw opens a stream of raw.
func openRaw(t *testing.T, s *Session, o *ipc.StreamOpening) *Stream {
	t.Helper()
	st, err := s.OpenStream(t.Context(), rawCall(), o)
	require.NoError(t, err)
	return st.(*Stream)
}

// pattern fills an item, so that it is no other one, and returns it.
func pattern(b []byte, id, i int) []byte {
	seed := uint64(id)<<32 + uint64(i)
	rest := b
	for ; len(rest) >= 8; rest = rest[8:] {
		seed = seed*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(rest, seed)
	}
	for j := range rest {
		rest[j] = byte(seed>>8) + byte(j) + byte(i)
	}
	return b
}

// isPattern reports whether b is an item that pattern has made.
func isPattern(b []byte, id, i int) bool {
	return string(b) == string(pattern(make([]byte, len(b)), id, i))
}

// unsettled says what of streams a session still has; it is empty in the end.
func (s *Session) unsettled() map[string]int64 {
	t := &s.streams
	left := map[string]int64{
		"places": t.places.open(), "budget": t.budget.spent.Load(), "readers": t.reading.Load(), "handlers": s.inFlight.n.Load(),
	}
	t.mu.Lock()
	left["own"], left["peers"], left["ending"] = int64(len(t.own)), int64(len(t.peers)), int64(t.ending)
	t.mu.Unlock()
	t.flush.mu.Lock()
	left["flush"] = int64(len(t.flush.streams))
	if t.flush.running {
		left["flusher"] = 1
	}
	t.flush.mu.Unlock()
	for what, n := range left {
		if n == 0 {
			delete(left, what)
		}
	}
	return left
}

// settles waits until nothing of streams is left in a session.
func settles(t require.TestingT, s *Session) {
	var left map[string]int64
	for start := time.Now(); time.Since(start) < 30*time.Second; runtime.Gosched() {
		if left = s.unsettled(); len(left) == 0 {
			return
		}
	}
	require.Empty(t, left, "of streams is left in the session")
}

// wellKept says what is wrong with the books of the receiving half of a stream.
func (st *Stream) wellKept() string {
	st.mu.Lock()
	defer st.mu.Unlock()
	in, buffered := &st.in, int64(0)
	for _, c := range in.chunks[in.first:] {
		buffered += c.cost
	}
	if in.current != nil {
		buffered += in.current.cost
	}
	switch {
	case st.over:
	case in.granted-in.taken > in.limit:
		return "the peer may send more than the window"
	case in.received > in.granted:
		return "the peer has sent more than it may"
	case buffered != in.received-in.taken:
		return "what is buffered is not what was received and not taken"
	case in.limit > st.session.streamWindow || in.limit < drivers.InitialStreamWindow:
		return "the window has a size of its own"
	}
	return ""
}

// noGoroutines waits until there are no more goroutines than before.
func noGoroutines(t *testing.T, before int) {
	t.Helper()
	for start := time.Now(); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			stacks := make([]byte, 1<<20)
			t.Fatalf("goroutines are left: %s", stacks[:runtime.Stack(stacks, true)])
		}
	}
}
