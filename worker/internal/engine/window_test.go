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

// windowLink is a fake link whose peer has a window of its own.
type windowLink struct {
	*fakeLink
	window int
}

func (l windowLink) Peer() drivers.Hello { return drivers.Hello{Window: l.window} }

// A sender that has used its window up waits, and goes on when the peer gives credit,
// when its context or timeout ends, or when the session does.
func TestWindowHoldsUpTheSender(t *testing.T) {
	l := windowLink{newFakeLink(), 2 * drivers.NotifyCost}
	s := newSessionOn(t, new(Registry), l)
	send := func(ctx context.Context, opts ...ipc.CallOption) error { return told.Notify(ctx, s, nil, opts...) }
	require.NoError(t, send(t.Context()))
	require.NoError(t, send(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 3)
	go func() { results <- send(ctx) }()
	cancel()
	require.Equal(t, context.Canceled, <-results)
	require.ErrorAs(t, send(t.Context(), ipc.WithTimeout(time.Millisecond)), new(*ipc.TimeoutError))
	require.Len(t, l.sent, 2)

	go func() { results <- send(t.Context()) }()
	l.push(drivers.Frame{Kind: drivers.KindCredit, Payload: drivers.AppendCredit(nil, 0, drivers.NotifyCost)})
	require.NoError(t, <-results)
	require.Len(t, l.sent, 3)

	_, answered := start2(s) // calls have a window of their own
	f := <-skip(l.sent, 3)
	l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx})
	require.NoError(t, <-answered)

	go func() { results <- send(t.Context()) }()
	require.Eventually(t, func() bool { return s.notificationWindow.waited() }, time.Minute, time.Millisecond)
	l.finish(ipc.ErrPeerGone)
	require.ErrorIs(t, <-results, ipc.ErrPeerGone)
}

func (w *sendWindow) waited() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed != nil
}

func start2(s *Session) (struct{}, chan error) {
	result := make(chan error, 1)
	go func() {
		_, err := echo.Call(context.Background(), s, nil)
		result <- err
	}()
	return struct{}{}, result
}

// skip takes n frames away.
func skip(c chan drivers.Frame, n int) chan drivers.Frame {
	for range n {
		<-c
	}
	return c
}

// A peer that sends more than its window and one message breaks the protocol, and so
// does one that gives back more than it got.
func TestWindowIsEnforced(t *testing.T) {
	reg := new(Registry)
	release := make(chan struct{})
	handle(reg, told, func(context.Context, []byte) ([]byte, error) { <-release; return nil, nil })
	s, l := newTestSession(t, reg)
	defer close(release)
	handle(reg, echo, func(context.Context, []byte) ([]byte, error) { <-release; return nil, nil })
	large := make([]byte, 1<<20)
	for range drivers.DefaultWindow/len(large) + 3 {
		l.push(drivers.Frame{Kind: drivers.KindNotify, Method: told.Info().ID, Payload: large})
	}
	<-s.Done()
	require.ErrorIs(t, s.Err(), ipc.ErrProtocol)
	require.ErrorContains(t, s.Err(), "notifications")

	for _, window := range []int{drivers.MinWindow, 1 << 20, 64 << 20} { // with requests, whose window has been chosen
		l := newFakeLink()
		s := New(Config{Link: l, Codec: ipc.CBOR, MaxMessage: 1 << 20, Window: window, Handlers: reg, Log: slog.New(slog.DiscardHandler)})
		s.Open()
		t.Cleanup(func() { s.Close(0) })
		sent := 0
		for ; !s.Failing() && sent < 4*window+16<<20; sent += len(large) {
			l.push(drivers.Frame{Kind: drivers.KindRequest, Tx: uint64(sent+1) << 1, Method: echo.Info().ID, Payload: large})
		}
		<-s.Done()
		require.ErrorContains(t, s.Err(), "of requests")
		require.Greater(t, sent, window)
	}

	s, l = newTestSession(t, reg)
	l.push(drivers.Frame{Kind: drivers.KindCredit, Payload: drivers.AppendCredit(nil, 1, 0)})
	<-s.Done()
	require.ErrorIs(t, s.Err(), ipc.ErrProtocol)
}

// What the receiver has finished with is given back, whoever has run the handler: after
// many times the window the sender still may send.
func TestCreditComesBack(t *testing.T) {
	for name, opts := range map[string][]func(*Handler){"inline": {(*Handler).Inline}, "one at a time": {oneAtATime}} {
		t.Run(name, func(t *testing.T) {
			reg := new(Registry)
			handle(reg, told, returnIt, opts...)
			s, l := newTestSession(t, reg)
			payload := make([]byte, 64<<10)
			var sent, returned int64
			for sent < 5*drivers.DefaultWindow {
				for sent-returned >= drivers.DefaultWindow {
					f := <-l.sent
					require.Equal(t, drivers.KindCredit, f.Kind)
					_, n, err := drivers.ParseCredit(f.Payload)
					require.NoError(t, err)
					returned += int64(n)
				}
				l.push(drivers.Frame{Kind: drivers.KindNotify, Method: told.Info().ID, Payload: payload})
				sent += costOf(&drivers.Frame{Kind: drivers.KindNotify, Payload: payload})
			}
			require.False(t, s.Failing())
		})
	}
}

// blockingLink is a fake link whose senders wait while it is blocked.
type blockingLink struct {
	*fakeLink
	mu      sync.Mutex
	blocked chan struct{} // closed to let senders go on; nil: it does not block
	asked   chan struct{} // gets a token from each sender that waits
}

func (l *blockingLink) wait(ctx context.Context) error {
	l.mu.Lock()
	blocked := l.blocked
	l.mu.Unlock()
	if blocked == nil {
		return nil
	}
	select {
	case l.asked <- struct{}{}:
	default:
	}
	select {
	case <-blocked:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.gone:
		return ipc.ErrPeerGone
	}
}

func (l *blockingLink) Send(ctx context.Context, f *drivers.Frame) error {
	if err := l.wait(ctx); err != nil {
		return err
	}
	return l.fakeLink.Send(ctx, f)
}

func (l *blockingLink) SendBatch(ctx context.Context, frames []drivers.Frame) (int, error) {
	if err := l.wait(ctx); err != nil {
		return 0, err
	}
	return l.fakeLink.SendBatch(ctx, frames)
}

func (l *blockingLink) unblock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.blocked)
	l.blocked = nil
}

func newBlockingLink() *blockingLink {
	return &blockingLink{fakeLink: newFakeLink(), blocked: make(chan struct{}), asked: make(chan struct{}, 1)}
}

// On a full link, the context or the timeout of one call of a batch ends that call alone.
// The others, and the notifications between them, arrive.
func TestBatchOnAFullLink(t *testing.T) {
	for name, timed := range map[string]bool{"context": false, "timeout": true} {
		t.Run(name, func(t *testing.T) {
			l := newBlockingLink()
			s := newSessionOn(t, new(Registry), l)
			var first *ipc.Future[[]byte]
			err := s.Batch(t.Context(), func(c ipc.Caller) error {
				var err error
				if first, err = echo.Go(context.Background(), c, []byte("first")); err != nil {
					return err
				}
				if err := told.Notify(t.Context(), c, []byte("told")); err != nil {
					return err
				}
				ctx, opts := context.Background(), []ipc.CallOption{ipc.WithTimeout(time.Second)}
				if !timed {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
					opts = nil
				}
				second, err := echo.Go(ctx, c, []byte("second"), opts...)
				if err != nil {
					return err
				}
				_, err = second.Wait(context.Background())
				l.unblock()
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the second call ended with %v", err)
				}
				return nil
			})
			if timed {
				require.ErrorAs(t, err, new(*ipc.TimeoutError), "the batch says what it could not send")
			} else {
				require.NoError(t, err)
			}
			f := <-l.sent
			require.Equal(t, "first", string(f.Payload))
			note := <-l.sent
			require.Equal(t, "told", string(note.Payload))
			l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Payload: []byte("answer")})
			b, err := first.Wait(t.Context())
			require.NoError(t, err)
			require.Equal(t, "answer", string(b))
			require.Empty(t, l.sent, "what was given up is not sent")
		})
	}
}

// When the context of a batch ends, all that is gathered fails, and the batch says so.
func TestBatchEndsWithItsContext(t *testing.T) {
	l := newBlockingLink()
	s := newSessionOn(t, new(Registry), l)
	ctx, cancel := context.WithCancel(t.Context())
	var call *ipc.Future[[]byte]
	err := s.Batch(ctx, func(c ipc.Caller) (err error) {
		require.NoError(t, told.Notify(t.Context(), c, nil))
		call, err = echo.Go(t.Context(), c, nil)
		go func() { <-l.asked; cancel() }()
		return err
	})
	require.Equal(t, context.Canceled, err)
	_, err = call.Wait(t.Context())
	require.Equal(t, context.Canceled, err)
	require.Zero(t, s.notificationWindow.sent.Load()+s.requestWindow.sent.Load(), "nothing counts as sent")
}

// Waiting for a future under a context that ends does not end the call.
func TestFutureIsWaitedForAgain(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	f, err := echo.Go(t.Context(), s, nil)
	require.NoError(t, err)
	request := <-l.sent
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err = f.Wait(ctx)
		require.Equal(t, context.DeadlineExceeded, err)
		cancel()
	}
	require.False(t, f.Done())
	l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: request.Tx, Payload: []byte("answer")})
	b, err := f.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, "answer", string(b))
	require.Empty(t, l.sent, "it was not cancelled")
}

// A handler that ends its goroutine has finished with its request all the same.
func TestCreditAfterGoexit(t *testing.T) {
	for name, opts := range map[string][]func(*Handler){"inline": {(*Handler).Inline}, "one at a time": {oneAtATime}} {
		t.Run(name, func(t *testing.T) {
			reg := new(Registry)
			handle(reg, echo, func(context.Context, []byte) ([]byte, error) { runtime.Goexit(); return nil, nil }, opts...)
			s, l := newTestSession(t, reg)
			for i := range uint64(3) {
				f := request(2*i+1, echo)
				l.push(f)
				require.Equal(t, drivers.KindError, (<-l.sent).Kind)
				cost := int64(i+1) * costOf(&f)
				require.Eventually(t, func() bool { return s.reader.requests.byOthers.Load() == cost }, time.Minute, time.Millisecond)
			}
		})
	}
}

// A run that ends just when the reader state is taken over from it gives back what it took,
// once.
func TestCreditWhenARunEndsBeforeItIsDetached(t *testing.T) {
	s := New(Config{Link: newFakeLink(), Handlers: new(Registry)})
	b := new(backgroundReader)
	b.request = Request{session: s, handler: new(Handler), ctx: s.newContext(), cost: drivers.NotifyCost}
	b.request.ctx.init(s, 1, 0)
	b.finishRun(s) // the reader state says already that it was taken over
	b.detachRun(s)
	require.EqualValues(t, drivers.NotifyCost, s.reader.requests.byOthers.Load())
	require.Zero(t, s.inFlight.n.Load())
}

// A batch, too, exceeds what is left of the window by no more than one message: the peer
// takes no more. What has no room waits, and arrives in its order.
func TestBatchHeedsTheWindow(t *testing.T) {
	l := windowLink{newFakeLink(), 2*drivers.NotifyCost - 1}
	s := newSessionOn(t, new(Registry), l)
	result := make(chan error, 1)
	var call *ipc.Future[[]byte]
	go func() {
		result <- s.Batch(t.Context(), func(c ipc.Caller) (err error) {
			for i := range byte(5) {
				own := ipc.WithTimeout(time.Hour + time.Duration(i)) // so each has a frame of its own
				if err := told.Notify(t.Context(), c, []byte{i}, own); err != nil {
					return err
				}
			}
			call, err = echo.Go(t.Context(), c, []byte{5})
			return err
		})
	}()
	var credit uint64
	for i := range byte(5) {
		if i >= 2 && i%2 == 0 {
			require.Eventually(t, s.notificationWindow.waited, time.Minute, time.Millisecond)
			require.Empty(t, l.sent)
			l.push(drivers.Frame{Kind: drivers.KindCredit, Payload: drivers.AppendCredit(nil, 0, credit)})
			credit = 0
		}
		f := <-l.sent
		require.Equal(t, []byte{i}, f.Payload)
		credit += uint64(costOf(&f))
	}
	f := <-l.sent
	require.Equal(t, []byte{5}, f.Payload)
	require.NoError(t, <-result)
	l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx})
	_, err := call.Wait(t.Context())
	require.NoError(t, err)
}

// startInBatch starts calls in a batch whose requests cannot be sent, and returns them and
// how the batch ends.
func startInBatch(t *testing.T, s *Session, l *blockingLink, n int) (calls []*asyncCall, result chan error) {
	result = make(chan error, 1)
	started := make(chan struct{})
	go func() {
		result <- s.Batch(context.Background(), func(c ipc.Caller) error {
			defer close(started)
			for range n {
				p, err := c.(ipc.Starter).Start(context.Background(), &ipc.Invocation{Method: echo.Info()}, nil, nil)
				if err != nil {
					return err
				}
				calls = append(calls, p.(*asyncCall))
			}
			return nil
		})
	}()
	<-started
	<-l.asked
	return calls, result
}

// While a batch cannot be sent, a call of it can be waited for under a context that ends,
// and be abandoned, at once. When the session ends meanwhile all comes to an end.
func TestGivingUpWhileABatchIsSent(t *testing.T) {
	l := newBlockingLink()
	s := newSessionOn(t, new(Registry), l)
	calls, result := startInBatch(t, s, l, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, over, err := calls[0].Wait(ctx)
	require.False(t, over)
	require.Equal(t, context.DeadlineExceeded, err)
	calls[1].Abandon()
	l.finish(ipc.ErrPeerGone)
	require.ErrorIs(t, <-result, ipc.ErrPeerGone)
	_, over, err = calls[0].Wait(t.Context())
	require.True(t, over)
	require.ErrorIs(t, err, ipc.ErrPeerGone)
	require.Zero(t, s.calls.pending())
}

// A call that was abandoned while its batch could not be sent is cancelled when it was.
func TestAbandonedCallOfABatchIsCancelled(t *testing.T) {
	l := newBlockingLink()
	s := newSessionOn(t, new(Registry), l)
	calls, result := startInBatch(t, s, l, 1)
	tx := calls[0].call.tx
	calls[0].Abandon()
	l.unblock()
	require.NoError(t, <-result)
	for _, kind := range []drivers.Kind{drivers.KindRequest, drivers.KindCancel} {
		f := <-l.sent
		require.Equal(t, kind, f.Kind)
		require.Equal(t, tx, f.Tx)
	}
}

// To take the result of a call in flight costs no memory.
func TestWaitTakesNoMemory(t *testing.T) {
	s := New(Config{Link: newFakeLink(), Handlers: new(Registry)})
	var calls []*call
	for range 101 {
		c, tx, err := s.calls.register(nil)
		require.NoError(t, err)
		c.async = asyncCall{session: s, call: c, ctx: t.Context(), inv: new(ipc.Invocation)}
		require.True(t, c.takeOwn(tx))
		calls = append(calls, c)
	}
	require.Zero(t, testing.AllocsPerRun(len(calls)-1, func() {
		_, _, _ = calls[0].async.Wait(t.Context())
		calls = calls[1:]
	}))
	require.Zero(t, s.calls.pending())
}
