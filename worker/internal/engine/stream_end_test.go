package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// await waits until a condition holds.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); runtime.Gosched() {
		if time.Since(start) > 30*time.Second {
			t.Fatalf("still not: %s", what)
		}
	}
}

// frameOf waits for a frame of this kind that a session has sent.
func frameOf(l *fakeLink, kind drivers.Kind) drivers.Frame {
	for f := range l.sent {
		if f.Kind == kind {
			return f
		}
	}
	return drivers.Frame{}
}

func endOfStream(tx uint64, code byte, rest ...byte) drivers.Frame {
	return drivers.Frame{Kind: drivers.KindEnd, Tx: tx, Payload: append([]byte{code}, rest...)}
}

func listOf(items ...string) (b []byte) {
	for _, item := range items {
		b = drivers.AppendItem(b, []byte(item))
	}
	return b
}

// The end of a stream may be read while the session ends. The stream ends all the same,
// and with the reason of the session if its handler has failed because of that.
func TestStreamEndsWhileTheSessionEnds(t *testing.T) {
	for _, code := range []byte{drivers.EndReturned, drivers.EndFailed} {
		l := newFakeLink()
		s := New(Config{Link: l, Codec: ipc.CBOR, MaxMessage: 1 << 20, Handlers: new(Registry)})
		explained := make(chan struct{})
		s.config.Explain = func(_ *Session, err error) error { <-explained; return err }
		var ends []error
		st := openRaw(t, s, &ipc.StreamOpening{OnEnd: func(err error) { ends = append(ends, err) }})
		s.Fail(ipc.ErrClosed)
		require.True(t, s.acquire(nil))
		f := endOfStream(st.tx, code)
		if code == drivers.EndFailed {
			f.Payload = ipc.AppendError(f.Payload, context.Canceled)
		}
		require.Nil(t, s.receive(&f))
		s.release(false)
		close(explained)
		<-s.Done()
		_, err := st.Receive(t.Context())
		want := io.EOF
		if code == drivers.EndFailed {
			want = ipc.ErrClosed
		}
		require.ErrorIs(t, err, want)
		require.Len(t, ends, 1)
		s.Close(0)
	}
}

// failingLink fails to send frames of a kind, when the test has done what it wants first.
type failingLink struct {
	*fakeLink
	kind  drivers.Kind
	first func(context.Context) error

	bounded atomic.Bool // the context of such a frame had a deadline
}

func (l *failingLink) Send(ctx context.Context, f *drivers.Frame) error {
	if f.Kind == l.kind && l.first != nil {
		if _, ok := ctx.Deadline(); ok {
			l.bounded.Store(true)
		}
		if err := l.first(ctx); err != nil {
			return err
		}
	}
	return l.fakeLink.Send(ctx, f)
}

// OnEnd is not called for a stream that could not be opened, whatever ends meanwhile, and is
// called once for all others.
func TestOnEndOfStreamsThatWereNotOpened(t *testing.T) {
	var calls atomic.Int64
	o := &ipc.StreamOpening{OnEnd: func(error) { calls.Add(1) }}

	t.Run("the session has ended meanwhile", func(t *testing.T) {
		l := &failingLink{fakeLink: newFakeLink(), kind: drivers.KindOpen}
		s := newSessionOn(t, new(Registry), l)
		l.first = func(context.Context) error {
			s.Fail(ipc.ErrPeerGone)
			<-s.Done()
			return ipc.ErrPeerGone
		}
		_, err := s.OpenStream(t.Context(), rawCall(), o)
		require.ErrorIs(t, err, ipc.ErrPeerGone)
		require.Zero(t, calls.Load())
	})
	t.Run("the first item is too large", func(t *testing.T) {
		s, l := newTestSession(t, new(Registry))
		large := *o
		large.First = make([]byte, 2<<20)
		_, err := s.OpenStream(t.Context(), rawCall(), &large)
		var tooLarge *ipc.SizeError
		require.ErrorAs(t, err, &tooLarge)
		require.Zero(t, calls.Load())
		require.Equal(t, []byte{drivers.EndGivenUp}, frameOf(l, drivers.KindEnd).Payload)
	})
	t.Run("the first item is sent for too long", func(t *testing.T) {
		s, _ := newTestSession(t, new(Registry))
		large := *o
		large.First = make([]byte, 100_000)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := s.OpenStream(ctx, rawCall(), &large)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, calls.Load())
	})
	t.Run("the handler returns before it has the first item", func(t *testing.T) {
		s, l := newTestSession(t, new(Registry))
		large := *o
		large.First = make([]byte, 100_000)
		go func() {
			tx := frameOf(l, drivers.KindOpen).Tx
			l.push(endOfStream(tx, drivers.EndFailed, ipc.AppendError(nil, errors.New("no"))...))
		}()
		st, err := s.OpenStream(t.Context(), rawCall(), &large)
		require.NoError(t, err, "Receive tells it, as with a small item")
		_, err = st.Receive(t.Context())
		require.ErrorContains(t, err, "no")
		require.EqualValues(t, 1, calls.Load())
		st.Close()
		require.EqualValues(t, 1, calls.Load())
	})
}

// What a handler has sent is there before an end without an error. If it could not be sent
// the end is an error.
func TestNothingIsMissingBeforeAnEndInOrder(t *testing.T) {
	reg := new(Registry)
	handleStream(reg, func(_ context.Context, st *Stream) error {
		for range 8 << 10 / 8 { // all that the window has room for
			if err := st.Send(context.Background(), nil); err != nil {
				return err
			}
		}
		return st.Send(context.Background(), []byte("one more"))
	})
	s, l := newTestSession(t, reg)
	open := drivers.AppendOpening(nil, &drivers.Opening{Window: drivers.InitialStreamWindow, Sent: true})
	l.push(drivers.Frame{Kind: drivers.KindOpen, Tx: 3, Method: raw.Info().ID, Remaining: 50 * time.Millisecond, Payload: open})
	end := frameOf(l, drivers.KindEnd)
	require.Equal(t, drivers.EndFailed, end.Payload[0])
	require.ErrorContains(t, ipc.ParseError(end.Payload[1:]), "deadline")
	settles(t, s)
}

// A handler whose deadline has passed, a moment before it passes here, ends the stream as if
// it had passed here.
func TestStreamIsOverdue(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Hour} {
		s, l := newTestSession(t, new(Registry))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		inv := rawCall()
		inv.Timeout = timeout
		st, err := s.OpenStream(ctx, inv, &ipc.StreamOpening{})
		require.NoError(t, err)
		handler := new(requestContext)
		handler.init(s, 3, 1)
		handler.fixDeadline()
		await(t, "the deadline has passed", handler.overdue)
		l.push(endOfStream(frameOf(l, drivers.KindOpen).Tx, drivers.EndFailed, handler.failureOf(context.DeadlineExceeded)...))
		_, err = st.Receive(t.Context())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var e *ipc.Error
		require.False(t, errors.As(err, &e), "it is no error of the handler's: %v", err)
		var limit *ipc.TimeoutError
		require.Equal(t, timeout > 0, errors.As(err, &limit), "%v", err)
	}
}

// A writer learns of the end with the next item, though there is room to gather it.
func TestWriterLearnsOfTheEnd(t *testing.T) {
	for _, starved := range []bool{false, true} {
		s, l := newTestSession(t, new(Registry))
		st := openRaw(t, s, &ipc.StreamOpening{})
		require.NoError(t, st.Send(t.Context(), []byte("x")))
		if starved { // gathered items wait for the peer's window
			require.NoError(t, st.Send(t.Context(), make([]byte, 4080)))
			require.NoError(t, st.Send(t.Context(), make([]byte, 3000)))
			gathersNext(t, st)
			for range 4 {
				require.NoError(t, st.Send(t.Context(), make([]byte, 300)))
			}
			st.flushNow(t.Context())
			require.NotNil(t, st.out.buffer)
		}
		l.push(endOfStream(st.tx, drivers.EndReturned))
		await(t, "it is over", func() bool { return st.ended() != nil })
		require.Equal(t, io.EOF, st.Send(t.Context(), []byte("y")))
	}
}

// Receive ends with its context, though there is no room to tell the peer that it may send
// more; the next Receive tells it.
func TestReceiveEndsWhileTheLinkIsFull(t *testing.T) {
	l := &failingLink{fakeLink: newFakeLink(), kind: drivers.KindWindow}
	room := make(chan struct{})
	l.first = func(ctx context.Context) error {
		select {
		case <-room:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s := newSessionOn(t, new(Registry), l)
	st := openRaw(t, s, &ipc.StreamOpening{})
	l.push(drivers.Frame{Kind: drivers.KindItems, Tx: st.tx, Method: drivers.ItemWhole, Payload: make([]byte, 6000)})
	_, err := st.Receive(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = st.Receive(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, st.wellKept())
	close(room)
	go st.Receive(t.Context())
	f := frameOf(l.fakeLink, drivers.KindWindow)
	more, err := drivers.ParseWindow(f.Payload)
	require.NoError(t, err)
	require.GreaterOrEqual(t, more, int64(6000))
	l.push(endOfStream(st.tx, drivers.EndReturned))
}

// A reader that is always a little behind keeps no more than what it is behind.
func TestReaderThatIsAlwaysBehind(t *testing.T) {
	reg := new(Registry)
	host, worker := newPair(t, roomy, reg)
	_ = worker
	st := &Stream{session: host, ctx: t.Context()}
	st.init(drivers.InitialStreamWindow)
	whole := drivers.Frame{Method: drivers.ItemWhole, Payload: make([]byte, joinedChunk+8), Owned: true}
	st.in.put(&whole, 0)
	for range 100_000 {
		st.in.put(&whole, 0)
		require.NotNil(t, st.in.take())
	}
	require.Less(t, cap(st.in.chunks), 64)
}

// Close, the end of the context, the return of the handler and the end of the link cross
// each other, in streams that have something to send in both directions.
func TestStreamEndsCross(t *testing.T) {
	for round := range 300 {
		reg := new(Registry)
		handleStream(reg, func(ctx context.Context, st *Stream) error {
			item, n := make([]byte, 500), round%7
			for range n {
				if _, err := st.Receive(ctx); err != nil {
					return err
				}
				if err := st.Send(ctx, item); err != nil {
					return err
				}
			}
			return nil
		})
		host, worker := newStreamPair(roomy, reg)
		ctx, cancel := context.WithCancel(context.Background())
		var ends atomic.Int64
		opened, err := host.OpenStream(ctx, rawCall(), &ipc.StreamOpening{OnEnd: func(error) { ends.Add(1) }})
		require.NoError(t, err)
		st := opened.(*Stream)
		var all sync.WaitGroup
		all.Go(func() {
			for st.Send(context.Background(), make([]byte, 500)) == nil {
			}
		})
		all.Go(func() {
			for {
				if _, err := st.Receive(context.Background()); err != nil {
					return
				}
			}
		})
		if round%2 == 0 {
			all.Go(st.Close)
		}
		if round%3 == 0 {
			all.Go(cancel)
		}
		if round%5 == 0 {
			all.Go(func() { host.Fail(ipc.ErrDisconnected) })
		}
		if round%11 == 0 {
			all.Go(func() { worker.Fail(ipc.ErrDisconnected) })
			all.Go(func() { host.Fail(ipc.ErrPeerGone) }) // which its link would find
		}
		all.Wait()
		await(t, "OnEnd was called", func() bool { return ends.Load() > 0 })
		if !host.Failing() {
			settles(t, host)
			settles(t, worker)
		}
		cancel()
		host.Close(0)
		worker.Close(0)
		require.EqualValues(t, 1, ends.Load())
	}
}

// fillWindow sends as much as the peer takes of a stream, and makes further small items be
// gathered.
func fillWindow(t *testing.T, st *Stream, l *fakeLink) {
	t.Helper()
	for range 2 {
		require.NoError(t, st.Send(t.Context(), make([]byte, drivers.MaxGathered-drivers.ItemHeader)))
		require.Len(t, frameOf(l, drivers.KindItems).Payload, drivers.MaxGathered)
	}
	gathersNext(t, st)
}

// gathersNext has the next items gathered, however long it takes until they come.
func gathersNext(t *testing.T, st *Stream) {
	t.Helper()
	require.NoError(t, st.out.lock.lock(t.Context(), nil, nil))
	st.out.last = monotonic() + time.Hour
	st.out.lock.unlock()
}

func windowOf(tx uint64, n byte) drivers.Frame {
	return drivers.Frame{Kind: drivers.KindWindow, Tx: tx, Payload: []byte{0, n, 0, 0, 0, 0, 0, 0}}
}

// An item that could not be sent is not sent later, whether it is alone or the last of many.
func TestItemsThatWereNotSent(t *testing.T) {
	for _, before := range []int{0, gatherItems - 1} {
		s, l := newTestSession(t, new(Registry))
		st := openRaw(t, s, &ipc.StreamOpening{})
		fillWindow(t, st, l)
		for i := range before {
			require.NoError(t, st.Send(t.Context(), []byte{byte(i)}))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if before == 0 {
			st.out.last = 0
		}
		require.ErrorIs(t, st.Send(ctx, []byte("lost")), context.Canceled)
		l.push(windowOf(st.tx, 16))
		require.NoError(t, st.Send(t.Context(), []byte("kept")))
		require.NoError(t, st.Flush(t.Context()))
		var all []string
		for len(all) <= before { // what was gathered may have gone by itself when there was room
			for rest := frameOf(l, drivers.KindItems).Payload; len(rest) > 0; {
				item, next, err := drivers.NextItem(rest)
				require.NoError(t, err)
				all, rest = append(all, string(item)), next
			}
		}
		require.Len(t, all, before+1)
		require.Equal(t, "kept", all[before])
	}
}

// What waits for the window of the peer is sent when there is one, though nobody sends
// anything any more.
func TestGatheredItemsWaitForTheWindow(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	st := openRaw(t, s, &ipc.StreamOpening{})
	fillWindow(t, st, l)
	require.NoError(t, st.Send(t.Context(), []byte("x")))
	await(t, "the flusher has given up", func() bool {
		if !st.out.lock.tryLock() {
			return false
		}
		defer st.out.lock.unlock()
		return !st.out.listed
	})
	require.NotNil(t, st.out.buffer)
	l.push(windowOf(st.tx, 16))
	require.Equal(t, listOf("x"), frameOf(l, drivers.KindItems).Payload)
}

// An item of which only a part has come is no end without an error, whoever is at fault: the
// handler that has given it up and says nothing, or the peer.
func TestItemThatIsCutShortIsNoEndInOrder(t *testing.T) {
	reg := new(Registry)
	handleStream(reg, func(ctx context.Context, st *Stream) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		_ = st.Send(ctx, make([]byte, 20<<10)) // for which the window has no room
		return nil
	})
	s, l := newTestSession(t, reg)
	open := drivers.AppendOpening(nil, &drivers.Opening{Window: drivers.InitialStreamWindow, Sent: true})
	l.push(drivers.Frame{Kind: drivers.KindOpen, Tx: 3, Method: raw.Info().ID, Payload: open})
	end := frameOf(l, drivers.KindEnd)
	require.Equal(t, drivers.EndFailed, end.Payload[0])
	require.ErrorContains(t, ipc.ParseError(end.Payload[1:]), "deadline")
	settles(t, s)

	st := openRaw(t, s, &ipc.StreamOpening{})
	l.push(drivers.Frame{Kind: drivers.KindItems, Tx: st.tx, Method: drivers.ItemPiece, Payload: make([]byte, 4<<10)})
	l.push(endOfStream(st.tx, drivers.EndReturned))
	_, err := st.Receive(t.Context())
	require.ErrorIs(t, err, ipc.ErrProtocol)
	require.ErrorContains(t, err, "cut short")
	settles(t, s)
}

// A request for the handler of a stream finds none, and so does a notification.
func TestRequestForTheHandlerOfAStream(t *testing.T) {
	reg := new(Registry)
	handleStream(reg, func(context.Context, *Stream) error { return nil })
	s, l := newTestSession(t, reg)
	for range 2 { // also when the reader knows the method
		l.push(drivers.Frame{Kind: drivers.KindNotify, Method: raw.Info().ID})
		l.push(drivers.Frame{Kind: drivers.KindRequest, Tx: 3, Method: raw.Info().ID})
		require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(ipc.ParseError(frameOf(l, drivers.KindError).Payload)))
	}
	settles(t, s)
}

// Header and trailer are those of one stream, though another one had the same place for them.
func TestMetadataIsOfOneStream(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	header, trailer := ipc.Pairs("of", "another"), ipc.Pairs("of", "another")
	inv := rawCall()
	inv.Header, inv.Trailer = &header, &trailer
	for range 2 {
		st, err := s.OpenStream(t.Context(), inv, &ipc.StreamOpening{})
		require.NoError(t, err)
		tx := frameOf(l, drivers.KindOpen).Tx
		l.push(drivers.Frame{Kind: drivers.KindItems, Tx: tx, Payload: listOf("x"), Meta: drivers.NewMetadata(ipc.Pairs("a", "1"), nil)})
		end := endOfStream(tx, drivers.EndReturned)
		end.Meta = drivers.NewMetadata(nil, ipc.Pairs("b", "2"))
		l.push(end)
		_, err = st.Receive(t.Context())
		require.NoError(t, err)
		_, err = st.Receive(t.Context())
		require.Equal(t, io.EOF, err)
		require.Equal(t, ipc.Pairs("a", "1"), header)
		require.Equal(t, ipc.Pairs("b", "2"), trailer)
	}
}

// The handler of the other side says that it takes no more: Send, also one that waits, in the
// middle of an item, returns io.EOF, and what the handler has sent is received.
func TestHandlerTakesNoMore(t *testing.T) {
	for _, size := range []int{10, 1000, 100_000} {
		s, l := newTestSession(t, new(Registry))
		st := openRaw(t, s, &ipc.StreamOpening{})
		<-l.sent
		ends := make(chan error, 1)
		go func() {
			for {
				if err := st.Send(context.Background(), make([]byte, size)); err != nil {
					ends <- err
					return
				}
			}
		}()
		await(t, "it waits", func() bool {
			st.mu.Lock()
			defer st.mu.Unlock()
			return st.out.waiter.call != nil
		})
		l.push(endOfStream(st.tx, drivers.EndTaken))
		require.Equal(t, io.EOF, <-ends)
		require.Equal(t, io.EOF, st.Send(t.Context(), nil))
		require.NoError(t, st.CloseSend(t.Context()))
		l.push(itemsOf(st.tx, 0, listOf("an answer")))
		l.push(endOfStream(st.tx, drivers.EndReturned))
		b, err := st.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "an answer", string(b))
		_, err = st.Receive(t.Context())
		require.Equal(t, io.EOF, err)
		settles(t, s)
	}
}

// While a sender waits for the window nobody looks after its stream. What it leaves behind is
// sent all the same.
func TestFlusherRestsWhileASenderWaits(t *testing.T) {
	for _, givesUp := range []bool{false, true} {
		s, l := newTestSession(t, new(Registry))
		st := openRaw(t, s, &ipc.StreamOpening{})
		fillWindow(t, st, l)
		require.NoError(t, st.Send(t.Context(), []byte("gathered")))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		sent := make(chan error)
		go func() { sent <- st.Send(ctx, make([]byte, drivers.MaxGathered-drivers.ItemHeader)) }()
		resting := func() bool {
			s.streams.flush.mu.Lock()
			defer s.streams.flush.mu.Unlock()
			return !s.streams.flush.running
		}
		await(t, "the sender waits", func() bool { return st.out.blocks.Load() != windowOpen })
		await(t, "the flusher rests", resting)
		if givesUp {
			cancel()
			require.ErrorIs(t, <-sent, context.Canceled)
		}
		l.push(windowOf(st.tx, 16))
		require.Equal(t, listOf("gathered"), frameOf(l, drivers.KindItems).Payload)
		l.push(windowOf(st.tx, 16))
		if !givesUp {
			require.NoError(t, <-sent)
			require.Len(t, frameOf(l, drivers.KindItems).Payload, drivers.MaxGathered)
		}
		l.push(endOfStream(st.tx, drivers.EndReturned))
		settles(t, s)
	}
}

// What a sender gets after the end does not depend on what has come first: where this side has closed
// its sending, that is the reason, and where it has closed the stream, that.
func TestSendAfterTheEnd(t *testing.T) {
	failed := endOfStream(0, drivers.EndFailed)
	failed.Payload = ipc.AppendError(failed.Payload, errors.New("enough"))
	steps := map[string]func(t *testing.T, s *Session, st *Stream){
		"closeSend": func(t *testing.T, _ *Session, st *Stream) { require.NoError(t, st.CloseSend(t.Context())) },
		"close":     func(_ *testing.T, _ *Session, st *Stream) { st.Close() },
	}
	for name, f := range map[string]drivers.Frame{"taken": endOfStream(0, drivers.EndTaken), "returned": endOfStream(0, drivers.EndReturned), "failed": failed} {
		steps[name] = func(t *testing.T, s *Session, st *Stream) {
			f := f
			f.Tx = st.tx
			require.True(t, s.acquire(nil))
			require.Nil(t, s.receive(&f))
			s.release(false)
		}
	}
	sends := map[string]func(st *Stream) error{
		"Send":  func(st *Stream) error { return st.Send(t.Context(), []byte("x")) },
		"large": func(st *Stream) error { return st.Send(t.Context(), make([]byte, 100_000)) },
		"Claim": func(st *Stream) error { _, err := st.Claim(t.Context(), 1); return err },
		"SendPart": func(st *Stream) error {
			_, err := st.SendPart(t.Context(), []byte("x"))
			return err
		},
		"SendAttached": func(st *Stream) error { return st.SendAttached(t.Context(), []byte("x"), nil) },
	}
	for _, c := range []struct {
		steps []string
		err   error // of all that send, whatever the order of the steps
	}{
		{[]string{"closeSend"}, errSendClosed},
		{[]string{"closeSend", "taken"}, errSendClosed},
		{[]string{"closeSend", "returned"}, errSendClosed},
		{[]string{"closeSend", "failed"}, errSendClosed},
		{[]string{"close"}, ipc.ErrClosed},
		{[]string{"close", "closeSend"}, ipc.ErrClosed},
		{[]string{"taken"}, io.EOF},
		{[]string{"taken", "returned"}, io.EOF},
		{[]string{"returned"}, io.EOF},
	} {
		for i := range c.steps {
			order := append(append([]string(nil), c.steps[i:]...), c.steps[:i]...)
			for _, gathered := range []bool{false, true} {
				t.Run(fmt.Sprint(order, gathered), func(t *testing.T) {
					l := newFakeLink()
					s := New(Config{Link: l, Codec: ipc.CBOR, MaxMessage: 1 << 20, Handlers: new(Registry)})
					t.Cleanup(func() { s.Fail(ipc.ErrClosed); <-s.Done(); s.Close(0) })
					st := openRaw(t, s, &ipc.StreamOpening{})
					if gathered {
						require.NoError(t, st.Send(t.Context(), []byte("a")))
						require.NoError(t, st.Send(t.Context(), []byte("b")))
					}
					for _, name := range order {
						steps[name](t, s, st)
					}
					for name, send := range sends {
						require.ErrorIs(t, send(st), c.err, name)
					}
					require.NoError(t, st.CloseSend(t.Context()))
				})
			}
		}
	}
}
