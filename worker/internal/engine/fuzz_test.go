package engine

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// deafLink is a fake link whose peer takes all that is sent, and remembers none of it.
type deafLink struct {
	*fakeLink
	mu       sync.Mutex
	requests []uint64 // the txs of what was asked
}

func (l *deafLink) Send(_ context.Context, f *drivers.Frame) error {
	l.fakeLink.mu.Lock()
	end := l.end
	l.fakeLink.mu.Unlock()
	if end == nil && f.Kind == drivers.KindRequest {
		l.mu.Lock()
		l.requests = append(l.requests, f.Tx)
		l.mu.Unlock()
	}
	return end
}

func (l *deafLink) SendBatch(ctx context.Context, frames []drivers.Frame) (int, error) {
	for i := range frames {
		if err := l.Send(ctx, &frames[i]); err != nil {
			return i, err
		}
	}
	return len(frames), nil
}

// asked returns the tx of one of the requests that were sent, or tx if there is none.
func (l *deafLink) asked(tx uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.requests) == 0 {
		return tx
	}
	return l.requests[tx%uint64(len(l.requests))]
}

// The methods of the session under FuzzSession: for each way in which handlers run, one
// that returns at once and one that runs until its context ends.
var fuzzMethods = func() (all []*ipc.Method[[]byte, []byte]) {
	for _, name := range []string{"own", "inline", "two", "own stuck", "two stuck"} {
		all = append(all, ipc.NewMethod[[]byte, []byte]("fuzz."+name, ipc.WithCodec(ipc.Raw)))
	}
	return all
}()

// The streams of that session, by what their handlers do.
var fuzzStreams = func() (all []*ipc.BidiStream[[]byte, []byte]) {
	for _, name := range []string{"return", "echo", "large", "stuck"} {
		all = append(all, ipc.NewBidiStream[[]byte, []byte]("fuzz."+name, ipc.WithCodec(ipc.Raw)))
	}
	return all
}()

// FuzzSession sends any frames in any order to a session that has calls of its own. The
// session ends with a protocol error or lives. If it lives, and what runs has ended,
// nothing of its windows is missing. It can always be closed, and all its calls end.
//
// The script is a list of frames: a length, a tag, and so many bytes. The first byte says
// what kind of session it is.
func FuzzSession(f *testing.F) {
	frame := func(fr drivers.Frame) []byte {
		body := append(fr.AppendHeader(nil), fr.Payload...)
		return append([]byte{byte(len(body)), fr.Tag()}, body...)
	}
	script := func(kind byte, frames ...drivers.Frame) {
		b := []byte{kind}
		for _, fr := range frames {
			b = append(b, frame(fr)...)
		}
		f.Add(b)
	}
	request := func(kind drivers.Kind, tx uint64, method int) drivers.Frame {
		return drivers.Frame{Kind: kind, Tx: tx, Method: uint64(method), Payload: []byte("x")}
	}
	for kind := range byte(4) {
		for method := range len(fuzzMethods) + 1 {
			script(kind, request(drivers.KindRequest, 3, method), request(drivers.KindRequest, 3, method), request(drivers.KindNotify, 0, method),
				drivers.Frame{Kind: drivers.KindCancel, Tx: 3}, request(drivers.KindNotify, 0, method))
			two := drivers.AppendItem(drivers.AppendItem(nil, []byte("x")), nil)
			for _, n := range []uint64{1, 2, 3, drivers.MaxPacked + 1} { // of which two is what it holds
				script(kind, drivers.Frame{Kind: drivers.KindNotify, Tx: n, Method: uint64(method), Payload: two}, request(drivers.KindNotify, 0, method))
			}
		}
		meta := drivers.NewMetadata(ipc.Pairs("a", "b", "a", ""), ipc.Pairs("c", "d"))
		for method := range len(fuzzMethods) + 1 {
			script(kind, drivers.Frame{Kind: drivers.KindRequest, Tx: 3, Method: uint64(method), Meta: meta}, drivers.Frame{Kind: drivers.KindNotify, Method: uint64(method), Meta: meta},
				drivers.Frame{Kind: drivers.KindResponse, Meta: meta}, drivers.Frame{Kind: drivers.KindError, Tx: 1, Meta: meta}, drivers.Frame{Kind: drivers.KindNotify, Tx: 1, Method: uint64(method), Meta: meta})
		}
		script(kind, drivers.Frame{Kind: drivers.KindResponse, Tx: 0}, drivers.Frame{Kind: drivers.KindError, Tx: 1}, drivers.Frame{Kind: drivers.KindResponse, Tx: 0})
		script(kind, drivers.Frame{Kind: drivers.KindCredit, Payload: drivers.AppendCredit(nil, 256, 0)}, drivers.Frame{Kind: drivers.KindCredit, Payload: drivers.AppendCredit(nil, 1<<63, 1<<63)})
		script(kind, drivers.Frame{Kind: drivers.KindGoodbye}, drivers.Frame{Kind: drivers.KindPing}, drivers.Frame{Kind: drivers.KindPong}, drivers.Frame{Kind: drivers.KindGoodbye})
		script(kind, drivers.Frame{Kind: drivers.KindResume, Payload: make([]byte, 8)}, request(drivers.KindRequest, 5, 3),
			drivers.Frame{Kind: drivers.KindResume, Tx: 7, Payload: make([]byte, 16)}, drivers.Frame{Kind: drivers.KindCancel, Tx: 7})
		// A stream of the peer with each handler, and one that is ours.
		theirs, ours := 3-uint64(kind&1), 2|uint64(kind&1)
		for method := range len(fuzzMethods) + 1 {
			open := openingOf(theirs, drivers.InitialStreamWindow, "x", "")
			open.Method = uint64(method)
			script(kind, open, itemsOf(theirs, 0, listOf("abc", "")), itemsOf(theirs, drivers.ItemPiece, []byte("de")), itemsOf(theirs, drivers.ItemWhole, []byte("f")),
				windowOf(theirs, 1), endOfStream(theirs, drivers.EndSent), endOfStream(theirs, drivers.EndGivenUp), open, endOfStream(theirs, drivers.EndDeadline))
		}
		script(kind, itemsOf(ours, drivers.ItemWhole, []byte("x")), itemsOf(ours, 0, listOf("x")), windowOf(ours, 255), endOfStream(ours, drivers.EndSent), endOfStream(ours, drivers.EndReturned), endOfStream(ours, drivers.EndReturned))
		for _, code := range []byte{drivers.EndFailed, drivers.EndGivenUp, drivers.EndTaken, 99} {
			script(kind, itemsOf(ours, drivers.ItemPiece, []byte("x")), endOfStream(ours, code, 0xa0))
		}
		script(kind, openingOf(theirs, 0), openingOf(ours, drivers.InitialStreamWindow))
		script(kind, drivers.Frame{Kind: drivers.KindRequest, Tx: 9, Method: 1, Remaining: 1}, drivers.Frame{Kind: drivers.KindRequest, Tx: 11, Method: 3, Remaining: time.Millisecond})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		reg := new(Registry)
		for i, opt := range []func(*Handler){oneAtATime, (*Handler).Inline, func(h *Handler) { h.Concurrent(2) }} {
			handle(reg, fuzzMethods[i], returnIt, opt)
		}
		over := make(chan struct{})
		stuck := func(ctx context.Context, _ []byte) ([]byte, error) {
			select {
			case <-ctx.Done():
			case <-over:
			}
			return nil, ctx.Err()
		}
		handle(reg, fuzzMethods[3], stuck)
		handle(reg, fuzzMethods[4], stuck, func(h *Handler) { h.Concurrent(2) })

		for i, f := range []func(context.Context, *Stream) error{
			func(context.Context, *Stream) error { return nil },
			func(ctx context.Context, st *Stream) error { // an echo
				for {
					b, err := st.Receive(ctx)
					if err != nil {
						return withoutEOF(err)
					}
					if err := st.Send(ctx, b); err != nil {
						return err
					}
				}
			},
			func(ctx context.Context, st *Stream) error { return st.Send(ctx, make([]byte, 20_000)) },
			func(ctx context.Context, _ *Stream) error { _, err := stuck(ctx, nil); return err },
		} {
			reg.Register(&Handler{Info: fuzzStreams[i].Info(), Stream: func(ctx context.Context, own *Stream, _ ipc.Stream) error {
				return f(ctx, own)
			}})
		}

		l := &deafLink{fakeLink: newFakeLink()}
		s := New(Config{
			Link: l, Side: uint64(b[0] & 1), Codec: ipc.CBOR, Timeout: time.Minute, AgreedTimeout: time.Minute,
			MaxMessage: 1 << 20, Handlers: reg, Log: slog.New(slog.DiscardHandler),
		})
		if b[0]&2 != 0 {
			replay := new(Replay)
			replay.Init(true, 1000)
			replay.Adopt(s)
		}
		s.Open()
		results, ends := make(chan error, 4), make(chan error, 2)
		for range cap(results) {
			go func() {
				_, err := echo.Call(context.Background(), s, []byte("call"))
				results <- err
			}()
		}
		opened, err := s.OpenStream(context.Background(), rawCall(), &ipc.StreamOpening{OnEnd: func(err error) { ends <- err }})
		if err != nil {
			t.Fatal(err)
		}
		streamed := make(chan int, 2)
		go func() {
			n := 0
			for ; ; n++ {
				if _, err := opened.Receive(context.Background()); err != nil {
					streamed <- n
					return
				}
			}
		}()
		go func() {
			for n := 0; ; n++ {
				if opened.Send(context.Background(), make([]byte, 3000)) != nil {
					streamed <- 0
					return
				}
			}
		}()
		for b = b[1:]; len(b) >= 2; {
			n, tag := min(int(b[0]), len(b)-2), b[1]
			var fr drivers.Frame
			err := fr.Parse(tag, b[2:2+n])
			b = b[2+n:]
			if err != nil {
				continue // a link ends with it
			}
			switch fr.Kind {
			case drivers.KindRequest, drivers.KindNotify:
				if i := fr.Method % uint64(len(fuzzMethods)+1); i < uint64(len(fuzzMethods)) {
					fr.Method = fuzzMethods[i].Info().ID
				}
			case drivers.KindOpen:
				if i := fr.Method % uint64(len(fuzzStreams)+1); i < uint64(len(fuzzStreams)) {
					fr.Method = fuzzStreams[i].Info().ID
				}
			case drivers.KindResponse, drivers.KindError:
				if fr.Tx < 1<<16 {
					fr.Tx = l.asked(fr.Tx)
				}
			}
			l.push(fr)
		}
		for l.pending() && !s.Failing() {
			runtime.Gosched()
		}
		close(over)
		told := make(map[uint64]bool)
		for !s.idle(l) && !s.Failing() {
			s.streams.mu.Lock()
			for tx := range s.streams.peers { // which may wait for the peer
				if !told[tx] {
					l.push(endOfStream(tx, drivers.EndGivenUp))
				}
				told[tx] = true
			}
			s.streams.mu.Unlock()
			runtime.Gosched()
		}
		if !s.Failing() {
			_, _, open := s.unreturned()
			require.Zero(t, open, "bytes of the windows that are in use")
			require.GreaterOrEqual(t, s.requestWindow.open(), int64(0))
			require.GreaterOrEqual(t, s.notificationWindow.open(), int64(0))
		}
		l.finish(ipc.ErrPeerGone)
		s.Close(0)
		if err := s.Err(); !errors.Is(err, ipc.ErrPeerGone) && !errors.Is(err, ipc.ErrClosed) {
			require.ErrorIs(t, err, ipc.ErrProtocol)
		}
		for range cap(results) {
			<-results // whatever it is
		}
		<-streamed
		<-streamed
		<-ends
		require.Zero(t, s.calls.pending())
		require.False(t, s.handles())
		require.Zero(t, s.streams.pending())
		require.Zero(t, s.streams.budget.spent.Load())
		require.Empty(t, ends, "OnEnd is called once")
	})
}

// pending reports whether there are frames that nobody has read.
func (l *deafLink) pending() bool {
	l.fakeLink.mu.Lock()
	defer l.fakeLink.mu.Unlock()
	return len(l.in) > 0
}

// idle reports whether all that came was read, and nothing runs.
func (s *Session) idle(l *deafLink) bool {
	s.refusals.mu.Lock()
	defer s.refusals.mu.Unlock()
	return !l.pending() && !s.handles() && !s.refusals.sending && s.reader.state.Load()&readerTaken == 0
}
