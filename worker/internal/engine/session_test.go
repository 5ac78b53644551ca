package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/retry"
)

// fakeLink is a link whose peer is the test: push sends to the session, and sent
// has what the session sends.
type fakeLink struct {
	mu     sync.Mutex
	change *sync.Cond
	in     []drivers.Frame
	end    error
	woken  bool
	armed  bool
	spin   atomic.Bool // Spin says to go on

	// Next makes what it has returned before useless, as a ring does, unless it was held.
	volatile bool
	lent     []byte

	sent  chan drivers.Frame
	flood atomic.Bool    // there is always another frame: a cancel, or
	next  *drivers.Frame // this one
	full  chan struct{}  // if not nil, Send blocks until it is closed or the link ends
	gone  chan struct{}
}

func newFakeLink() *fakeLink {
	l := &fakeLink{sent: make(chan drivers.Frame, 1000), gone: make(chan struct{})}
	l.change = sync.NewCond(&l.mu)
	return l
}

func (l *fakeLink) push(f drivers.Frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in = append(l.in, f)
	if l.armed {
		l.change.Broadcast()
	}
}

func (l *fakeLink) finish(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end == nil {
		l.end = err
		close(l.gone)
	}
	l.change.Broadcast()
}

func (l *fakeLink) Send(_ context.Context, sent *drivers.Frame) error {
	f := *sent
	if l.full != nil && f.Kind == drivers.KindError {
		select {
		case <-l.full:
		case <-l.gone:
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != nil {
		return l.end
	}
	f.Payload = append([]byte(nil), f.Payload...)
	l.sent <- f
	return nil
}

func (l *fakeLink) Next(f *drivers.Frame) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.lent {
		l.lent[i] = 0xdd
	}
	l.lent = nil
	if len(l.in) > 0 {
		*f = l.in[0]
		if l.volatile && !f.Owned {
			l.lent = f.Payload
		}
		l.in = l.in[1:]
		f.More = len(l.in) > 0 || l.flood.Load()
		return true, nil
	}
	if l.flood.Load() {
		*f = drivers.Frame{Kind: drivers.KindCancel, Tx: 1}
		if l.next != nil {
			*f = *l.next
		}
		f.More = true
		return true, nil
	}
	return false, l.end
}

func (l *fakeLink) Hold() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.lent
	l.lent = nil
	return func() {
		for i := range held {
			held[i] = 0xee
		}
	}
}

func (l *fakeLink) Recycle([]byte) {}

func (l *fakeLink) SendBatch(ctx context.Context, frames []drivers.Frame) (int, error) {
	for i := range frames {
		if err := l.Send(ctx, &frames[i]); err != nil {
			return i, err
		}
	}
	return len(frames), nil
}

func (l *fakeLink) set(armed bool) {
	l.mu.Lock()
	l.armed = armed
	l.mu.Unlock()
}

func (l *fakeLink) Arm()    { l.set(true) }
func (l *fakeLink) Disarm() { l.set(false) }

func (l *fakeLink) Spin() bool {
	time.Sleep(time.Microsecond)
	return l.spin.Load()
}

func (l *fakeLink) Ready() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.in) > 0 || l.end != nil
}

func (l *fakeLink) Sleep(until func() bool) {
	if until() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// A frame that came since until looked has rung, if the link was armed.
	for !l.woken && l.end == nil && !(l.armed && len(l.in) > 0) {
		l.change.Wait()
	}
	l.woken = false
}

func (l *fakeLink) Wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.woken = true
	l.change.Broadcast()
}

func (l *fakeLink) Peer() drivers.Hello { return drivers.Hello{} }
func (l *fakeLink) Shutdown()           { l.finish(ipc.ErrDisconnected) }
func (l *fakeLink) Close() error        { l.Shutdown(); return nil }

var echo = ipc.NewMethod[[]byte, []byte]("echo", ipc.WithCodec(ipc.Raw))

// handle registers a handler as worker.Handle does.
func handle(reg *Registry, m *ipc.Method[[]byte, []byte], f func(context.Context, []byte) ([]byte, error), opts ...func(*Handler)) {
	h := &Handler{Info: m.Info()}
	h.Invoke = func(r *Request) ([]byte, error) {
		b, err := Decode[[]byte](ipc.Raw, r)
		if err != nil {
			return nil, err
		}
		r.Release()
		return f(r.Context(), b)
	}
	for _, opt := range opts {
		opt(h)
	}
	reg.Register(h)
}

// handleInPlace registers a handler as worker.HandleInPlace does.
func handleInPlace(reg *Registry, m *ipc.Method[[]byte, []byte], f func(context.Context, *Request) error, opts ...func(*Handler)) {
	h := &Handler{Info: m.Info(), InPlace: true}
	h.Invoke = func(r *Request) ([]byte, error) { err := f(r.Context(), r); return r.Reply(), err }
	for _, opt := range opts {
		opt(h)
	}
	reg.Register(h)
}

func oneAtATime(h *Handler) { h.Concurrent(1) }

// newTestSession returns a session of a host over a fake link.
func newTestSession(t *testing.T, reg *Registry) (*Session, *fakeLink) {
	t.Helper()
	l := newFakeLink()
	return newSessionOn(t, reg, l), l
}

func newSessionOn(t *testing.T, reg *Registry, l drivers.Link) *Session {
	t.Helper()
	s := New(Config{Link: l, Codec: ipc.CBOR, Timeout: time.Minute, AgreedTimeout: time.Minute, MaxMessage: 1 << 20, Handlers: reg, Log: slog.New(slog.DiscardHandler)})
	s.Open()
	t.Cleanup(func() { s.Close(0) })
	return s
}

// start starts a call and returns its request and where its end will be.
func start(t *testing.T, s *Session, l *fakeLink) (request drivers.Frame, result chan error) {
	t.Helper()
	result = make(chan error, 1)
	go func() {
		b, err := echo.Call(context.Background(), s, []byte("x"))
		if err == nil && string(b) != "answer" {
			err = ipc.NewError(ipc.CodeDataLoss, string(b))
		}
		result <- err
	}()
	return <-l.sent, result
}

func TestAnswersThatNobodyWaitsFor(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	request, result := start(t, s, l)
	forged := []uint64{0, 1, request.Tx ^ 1, request.Tx + 1<<txUses, request.Tx - 1<<txUses, request.Tx + 2, ^uint64(0), 1 << 63, request.Tx | 1<<txUses<<42}
	for _, tx := range forged {
		l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: tx, Payload: []byte("forged")})
		l.push(drivers.Frame{Kind: drivers.KindError, Tx: tx, Payload: []byte("forged")})
		l.push(drivers.Frame{Kind: drivers.KindCancel, Tx: tx})
	}
	l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: request.Tx, Payload: []byte("answer")})
	l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: request.Tx, Payload: []byte("again")})
	require.NoError(t, <-result)
	next, result := start(t, s, l)
	require.NotEqual(t, request.Tx, next.Tx, "the place is the same, the use is another")
	l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: request.Tx, Payload: []byte("late")})
	l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: next.Tx, Payload: []byte("answer")})
	require.NoError(t, <-result)
	require.EqualValues(t, 2*len(forged)+2, s.LateResponses())
}

func TestErrorThatCannotBeRead(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	request, result := start(t, s, l)
	l.push(drivers.Frame{Kind: drivers.KindError, Tx: request.Tx, Payload: []byte{0xff, 0xff}})
	err := <-result
	require.Equal(t, ipc.CodeInternal, ipc.CodeOf(err))
	require.ErrorContains(t, err, "cannot be read")
}

func TestUnexpectedFrameEndsTheSession(t *testing.T) {
	for _, kind := range []drivers.Kind{0, 6, 9, 15} {
		s, l := newTestSession(t, new(Registry))
		_, result := start(t, s, l)
		l.push(drivers.Frame{Kind: kind})
		require.ErrorIs(t, <-result, ipc.ErrProtocol)
		<-s.Done()
		_, err := echo.Call(t.Context(), s, nil)
		require.ErrorIs(t, err, ipc.ErrProtocol)
	}
}

// What was sent before the link ended is delivered, then the calls that are left fail.
func TestLinkEnds(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	first, firstResult := start(t, s, l)
	_, secondResult := start(t, s, l)
	l.mu.Lock()
	l.in = append(l.in, drivers.Frame{Kind: drivers.KindResponse, Tx: first.Tx, Payload: []byte("answer")})
	l.mu.Unlock()
	l.finish(ipc.ErrPeerGone)
	require.NoError(t, <-firstResult)
	require.ErrorIs(t, <-secondResult, ipc.ErrPeerGone)
}

// A peer that never stops sending neither prolongs a call nor keeps the session.
func TestFlood(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	l.flood.Store(true)
	_, err := echo.Call(t.Context(), s, nil, ipc.WithTimeout(20*time.Millisecond))
	require.ErrorAs(t, err, new(*ipc.TimeoutError))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = echo.Call(ctx, s, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	l.Wake()
	s.Close(0) // returns
}

// However many requests are refused, and however slowly the refusals are read, the link
// lives and each caller is told.
func TestManyRefusals(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	l.full = make(chan struct{})
	const calls = drivers.DefaultWindow / drivers.RequestCost
	for tx := range uint64(calls) {
		l.push(drivers.Frame{Kind: drivers.KindRequest, Tx: 2*tx + 1, Method: 77})
	}
	require.Eventually(t, func() bool { return !l.Ready() }, time.Minute, time.Millisecond)
	require.False(t, s.Failing())
	close(l.full)
	refused := 0
	for refused < calls {
		f := <-l.sent
		if f.Kind == drivers.KindCredit {
			continue
		}
		require.Equal(t, uint64(2*refused+1), f.Tx)
		require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(ipc.ParseError(f.Payload)))
		refused++
	}
}

func TestDrain(t *testing.T) {
	s, _ := newTestSession(t, new(Registry))
	require.True(t, s.inFlight.enter())
	require.True(t, s.inFlight.enter())
	drained := s.Drain()
	require.False(t, s.inFlight.enter())
	s.inFlight.exit()
	select {
	case <-drained:
		t.Fatal("drained too early")
	case <-time.After(10 * time.Millisecond):
	}
	s.inFlight.exit()
	<-drained
}

// Callers that come and go while readers spin, park, and hand the role on.
func TestManyCallers(t *testing.T) {
	for _, spin := range []bool{true, false} {
		s, l := newTestSession(t, new(Registry))
		l.spin.Store(spin)
		go func() {
			for {
				select {
				case f := <-l.sent:
					l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Payload: f.Payload})
				case <-s.Done():
					return
				}
			}
		}()
		var wg sync.WaitGroup
		for g := range 50 {
			wg.Go(func() {
				for i := range 100 {
					want := []byte{byte(g), byte(i)}
					got, err := echo.Call(context.Background(), s, want)
					if err != nil || string(got) != string(want) {
						t.Errorf("got %v, %v, want %v", got, err, want)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

// A quick handler is run by the background reader; when it blocks the link is still read,
// also by the handler's own calls, and the background reader comes back afterwards.
func TestBackgroundReaderIsReplaced(t *testing.T) {
	reg := new(Registry)
	release := make(chan struct{})
	var blocking atomic.Bool
	var blocked atomic.Int32
	handle(reg, echo, func(ctx context.Context, b []byte) ([]byte, error) {
		if blocking.Load() {
			blocked.Add(1)
			<-release
		}
		return b, nil
	})
	s, l := newTestSession(t, reg)
	t.Cleanup(sync.OnceFunc(func() { close(release) }))
	l.spin.Store(true)
	request := func(tx uint64) {
		l.push(drivers.Frame{Kind: drivers.KindRequest, Tx: tx, Method: echo.Info().ID, Payload: []byte("r")})
	}
	h := reg.find(echo.Info().ID)
	for tx := uint64(1); !h.quick(); tx += 2 {
		request(tx)
		require.Equal(t, tx, (<-l.sent).Tx)
	}
	before := s.reader.state.Load() & readerGeneration
	blocking.Store(true)
	request(1001)
	for s.reader.state.Load()&readerState != readerHandling && s.reader.state.Load()&readerGeneration == before {
		time.Sleep(time.Microsecond)
	}
	// Nobody but a new background reader can read this. It is not run inline any more.
	request(1003)
	for blocked.Load() != 2 {
		time.Sleep(time.Microsecond)
	}
	require.False(t, h.quick(), "it has been caught")
	blocking.Store(false)
	for range 2 {
		release <- struct{}{}
	}
	require.ElementsMatch(t, []uint64{1001, 1003}, []uint64{(<-l.sent).Tx, (<-l.sent).Tx})
	request(1005)
	require.EqualValues(t, 1005, (<-l.sent).Tx)
}

// Long limits are kept by one goroutine, which ends when no call sleeps.
func TestSweeper(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	const limit = ownTimer + ownTimer/4
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			_, err := echo.Call(context.Background(), s, nil, ipc.WithTimeout(limit))
			var over *ipc.TimeoutError
			if !errors.As(err, &over) || over.After != limit {
				t.Errorf("got %v, want a TimeoutError of %v", err, limit)
			}
		})
	}
	// One with a longer limit is answered meanwhile.
	answered := make(chan error, 1)
	go func() {
		_, err := echo.Call(context.Background(), s, []byte("long"), ipc.WithTimeout(time.Hour))
		answered <- err
	}()
	require.Eventually(t, s.sweeper.active.Load, time.Minute, time.Millisecond)
	for {
		f := <-l.sent
		if string(f.Payload) == "long" {
			l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx})
			break
		}
	}
	require.NoError(t, <-answered)
	wg.Wait()
	require.Eventually(t, func() bool { return !s.sweeper.active.Load() }, time.Minute, time.Millisecond)
	require.Zero(t, s.calls.pending())
}

func TestRefusalOfAnotherWorkerIsNotOurs(t *testing.T) {
	refused := ipc.ParseError(ipc.AppendError(nil, errDraining))
	attempts := 1
	require.True(t, retry.Again(refused, &attempts))
	for _, err := range []error{refused, fmt.Errorf("call the other worker: %w", refused)} {
		r := &Request{handler: &Handler{Invoke: func(*Request) ([]byte, error) { return nil, err }}, background: new(backgroundReader), ctx: new(requestContext)}
		_, failure := new(Session).call(r)
		got := ipc.ParseError(failure)
		require.False(t, retry.Again(got, &attempts), "the handler has run")
		require.Equal(t, ipc.CodeUnavailable, got.Code)
		require.Contains(t, got.Message, refused.Message)
	}
}

func TestSweeperHurriesBeforeItsFirstLook(t *testing.T) {
	s := New(Config{Link: newFakeLink(), Handlers: new(Registry)})
	s.sweeper.active.Store(true) // by a call with a long timeout, which has not said so yet
	s.sweeper.watch(s, ownTimer)
	require.Len(t, s.sweeper.hurry, 1)
}
