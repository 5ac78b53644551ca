package worker

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

func (l *fakeLink) Send(_ context.Context, f drivers.Frame) error {
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

func (l *fakeLink) Next() (drivers.Frame, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.in) > 0 {
		f := l.in[0]
		l.in = l.in[1:]
		f.More = len(l.in) > 0 || l.flood.Load()
		return f, true, nil
	}
	if l.flood.Load() {
		f := drivers.Frame{Kind: drivers.KindCancel, Tx: 1}
		if l.next != nil {
			f = *l.next
		}
		f.More = true
		return f, true, nil
	}
	return drivers.Frame{}, false, l.end
}

func (l *fakeLink) Hold() func() { return func() {} } // its frames are copies

func (l *fakeLink) Recycle([]byte) {}

func (l *fakeLink) SendBatch(ctx context.Context, frames []drivers.Frame) (int, error) {
	for i, f := range frames {
		if err := l.Send(ctx, f); err != nil {
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

// newTestSession returns a session of a host over a fake link.
func newTestSession(t *testing.T, reg *registry) (*session, *fakeLink) {
	t.Helper()
	l := newFakeLink()
	return newSessionOn(t, reg, l), l
}

func newSessionOn(t *testing.T, reg *registry, l drivers.Link) *session {
	t.Helper()
	s := newSession(l, 0, ipc.CBOR, drivers.Timeouts{Call: time.Minute}, reg, slog.New(slog.DiscardHandler), nil)
	s.open()
	t.Cleanup(func() { s.close(0) })
	return s
}

// start starts a call and returns its request and where its end will be.
func start(t *testing.T, s *session, l *fakeLink) (request drivers.Frame, result chan error) {
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
	s, l := newTestSession(t, new(registry))
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
	require.EqualValues(t, 2*len(forged)+2, s.late.Load())
}

func TestErrorThatCannotBeRead(t *testing.T) {
	s, l := newTestSession(t, new(registry))
	request, result := start(t, s, l)
	l.push(drivers.Frame{Kind: drivers.KindError, Tx: request.Tx, Payload: []byte{0xff, 0xff}})
	err := <-result
	require.Equal(t, ipc.CodeInternal, ipc.CodeOf(err))
	require.ErrorContains(t, err, "cannot be read")
}

func TestUnexpectedFrameEndsTheSession(t *testing.T) {
	for _, kind := range []drivers.Kind{0, 6, 9, 15} {
		s, l := newTestSession(t, new(registry))
		_, result := start(t, s, l)
		l.push(drivers.Frame{Kind: kind})
		require.ErrorIs(t, <-result, ipc.ErrProtocol)
		<-s.done
		_, err := echo.Call(t.Context(), s, nil)
		require.ErrorIs(t, err, ipc.ErrProtocol)
	}
}

// What was sent before the link ended is delivered, then the calls that are left fail.
func TestLinkEnds(t *testing.T) {
	s, l := newTestSession(t, new(registry))
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
	s, l := newTestSession(t, new(registry))
	l.flood.Store(true)
	_, err := echo.Call(t.Context(), s, nil, ipc.WithTimeout(20*time.Millisecond))
	require.ErrorAs(t, err, new(*ipc.TimeoutError))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = echo.Call(ctx, s, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	l.Wake()
	s.close(0) // returns
}

// A peer that asks for what there is not, and does not read the answers.
func TestUnreadRefusals(t *testing.T) {
	s, l := newTestSession(t, new(registry))
	l.full = make(chan struct{})
	for tx := range uint64(2 * maxRefusing) {
		l.push(drivers.Frame{Kind: drivers.KindRequest, Tx: 2*tx + 1, Method: 77})
	}
	<-s.done
	require.ErrorIs(t, s.err, ipc.ErrProtocol)
	require.ErrorContains(t, s.err, "does not read")
}

func TestActivityIsBounded(t *testing.T) {
	var a activity
	require.NoError(t, a.begin(maxRequests+1), "the first one may be of any size")
	require.Equal(t, errTooBusy, a.begin(0))
	a.end(maxRequests + 1)
	for range maxHandlers {
		require.NoError(t, a.begin(1))
	}
	require.Equal(t, errTooBusy, a.begin(1))
	a.end(1)
	require.NoError(t, a.begin(1))
}

func TestDrain(t *testing.T) {
	s, _ := newTestSession(t, new(registry))
	require.NoError(t, s.active.begin(1))
	require.NoError(t, s.active.begin(1))
	drained := s.drain()
	require.Equal(t, errDraining, s.active.begin(1))
	s.active.end(1)
	select {
	case <-drained:
		t.Fatal("drained too early")
	case <-time.After(10 * time.Millisecond):
	}
	s.active.end(1)
	<-drained
}

// Callers that come and go while readers spin, park, and hand the role on.
func TestManyCallers(t *testing.T) {
	for _, spin := range []bool{true, false} {
		s, l := newTestSession(t, new(registry))
		l.spin.Store(spin)
		go func() {
			for {
				select {
				case f := <-l.sent:
					l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Payload: f.Payload})
				case <-s.done:
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

// A quick handler is run by the keeper; when it blocks the link is still read,
// also by the handler's own calls, and the keeper comes back afterwards.
func TestKeeperIsReplaced(t *testing.T) {
	reg := new(registry)
	release := make(chan struct{})
	var blocking atomic.Bool
	var blocked atomic.Int32
	Handle(reg, echo, func(ctx context.Context, b []byte) ([]byte, error) {
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
	before := s.role.Load() & roleKeeper
	blocking.Store(true)
	request(1001)
	for s.role.Load()&roleState != roleInline && s.role.Load()&roleKeeper == before {
		time.Sleep(time.Microsecond)
	}
	// Nobody but a new keeper can read this. It is not run inline any more.
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
func TestLimiter(t *testing.T) {
	s, l := newTestSession(t, new(registry))
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
	require.Eventually(t, s.limiter.active.Load, time.Minute, time.Millisecond)
	// One with a longer limit is answered meanwhile.
	answered := make(chan error, 1)
	go func() {
		_, err := echo.Call(context.Background(), s, []byte("long"), ipc.WithTimeout(time.Hour))
		answered <- err
	}()
	for {
		f := <-l.sent
		if string(f.Payload) == "long" {
			l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx})
			break
		}
	}
	require.NoError(t, <-answered)
	wg.Wait()
	require.Eventually(t, func() bool { return !s.limiter.active.Load() }, time.Minute, time.Millisecond)
	require.Zero(t, s.calls.pending())
}

func TestRefusalOfAnotherWorkerIsNotOurs(t *testing.T) {
	refused := ipc.ParseError(ipc.AppendError(nil, errDraining))
	attempts := 1
	require.True(t, sendAgain(refused, &attempts))
	for _, err := range []error{refused, fmt.Errorf("call the other worker: %w", refused)} {
		j := &job{handler: &handler{invoke: func(*job) ([]byte, error) { return nil, err }}}
		_, failure := new(session).call(j)
		got := ipc.ParseError(failure)
		require.False(t, sendAgain(got, &attempts), "the handler has run")
		require.Equal(t, ipc.CodeUnavailable, got.Code)
		require.Contains(t, got.Message, refused.Message)
	}
}

func TestLimiterHurriesBeforeItsFirstLook(t *testing.T) {
	s := newSession(nil, 0, ipc.CBOR, drivers.Timeouts{}, new(registry), slog.New(slog.DiscardHandler), nil)
	s.limiter.active.Store(true) // by a call with a long limit, which has not said so yet
	s.limiter.begin(s, ownTimer)
	require.Len(t, s.limiter.hurry, 1)
}
