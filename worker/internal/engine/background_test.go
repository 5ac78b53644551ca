package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

func request(tx uint64, m interface{ Info() ipc.MethodInfo }) drivers.Frame {
	return drivers.Frame{Kind: drivers.KindRequest, Tx: tx, Method: m.Info().ID, Payload: []byte("r")}
}

var (
	told  = ipc.NewMethod[[]byte, []byte]("told", ipc.WithCodec(ipc.Raw))
	stuck = ipc.NewMethod[[]byte, []byte]("stuck", ipc.WithCodec(ipc.Raw))
)

func returnIt(_ context.Context, b []byte) ([]byte, error) { return b, nil }

// queued is how many wait for their turn.
func (m *semaphore) queued() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting)
}

// isRunning reports whether a request runs.
func (m *semaphore) isRunning() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running > 0
}

// pushAll pushes frames that are there all at once.
func (l *fakeLink) pushAll(frames ...drivers.Frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in = append(l.in, frames...)
	if l.armed {
		l.change.Broadcast()
	}
}

// An answer does not wait for ever for others that will not come.
func TestGatheredAnswerBehindNotifications(t *testing.T) {
	reg := new(Registry)
	handle(reg, echo, returnIt, (*Handler).Inline)
	handle(reg, told, returnIt, (*Handler).Inline)
	s, l := newTestSession(t, reg)
	t.Cleanup(func() { l.flood.Store(false) })
	l.next = &drivers.Frame{Kind: drivers.KindNotify, Method: told.Info().ID}
	l.flood.Store(true)
	l.pushAll(request(1, echo))
	l.Wake()
	for timeout := time.After(time.Minute); ; {
		var f drivers.Frame
		select {
		case f = <-l.sent:
		case <-timeout:
			t.Fatal("the answer waits until the peer has nothing to say")
		}
		if f.Kind != drivers.KindCredit { // for notifications that came before
			require.EqualValues(t, 1, f.Tx)
			break
		}
	}
	l.flood.Store(false)
	require.Eventually(t, func() bool { return s.inFlight.n.Load() == 0 }, time.Minute, time.Millisecond)
}

// What was answered before the session drains arrives before it has drained.
func TestDrainSendsGatheredAnswers(t *testing.T) {
	reg := new(Registry)
	handle(reg, echo, returnIt, (*Handler).Inline)
	for range 50 {
		l := newFakeLink()
		sending := make(chan struct{})
		slow := &slowLink{l, sync.OnceFunc(func() { close(sending) })} // a watchdog that looks just then makes two batches of them
		s := newSessionOn(t, reg, slow)
		l.pushAll(request(1, echo), request(3, echo), drivers.Frame{Kind: drivers.KindGoodbye})
		<-s.Goodbye()
		drained := s.Drain()
		select {
		case <-drained:
			t.Fatal("drained, and the answers are not sent")
		case <-sending:
		}
		<-drained
		require.Len(t, l.sent, 2)
	}
}

// slowLink takes its time to send a batch.
type slowLink struct {
	*fakeLink
	begins func()
}

func (l *slowLink) SendBatch(ctx context.Context, frames []drivers.Frame) (int, error) {
	time.Sleep(2 * time.Millisecond)
	l.begins()
	time.Sleep(2 * time.Millisecond)
	return l.fakeLink.SendBatch(ctx, frames)
}

// A handler that turns slow does not hold back the answers before it.
func TestAnswersBeforeASlowOne(t *testing.T) {
	reg := new(Registry)
	release := make(chan struct{})
	handle(reg, echo, returnIt, (*Handler).Inline)
	handle(reg, stuck, func(ctx context.Context, b []byte) ([]byte, error) {
		<-release
		return b, nil
	}, (*Handler).Inline)
	s, l := newTestSession(t, reg)
	t.Cleanup(sync.OnceFunc(func() { close(release) }))
	l.pushAll(request(1, echo), request(3, echo), request(5, stuck), request(7, echo), request(9, stuck), request(11, echo))
	var before []uint64
	for range 4 {
		before = append(before, (<-l.sent).Tx)
	}
	require.ElementsMatch(t, []uint64{1, 3, 7, 11}, before)
	release <- struct{}{}
	release <- struct{}{}
	require.ElementsMatch(t, []uint64{5, 9}, []uint64{(<-l.sent).Tx, (<-l.sent).Tx})
	require.Eventually(t, func() bool { return !s.handles() }, time.Minute, time.Millisecond)
}

// holdingLink counts what is held.
type holdingLink struct {
	*fakeLink
	held atomic.Int32
	ever atomic.Int32
}

func (l *holdingLink) Hold() func() {
	l.ever.Add(1)
	l.held.Add(1)
	return sync.OnceFunc(func() { l.held.Add(-1) })
}

// A handler that was run by the background reader and turns slow holds memory of the link for as
// long as it needs its request, and that is to the end only if it works in place.
func TestDetachedRunReleasesItsRequest(t *testing.T) {
	reg := new(Registry)
	release := make(chan struct{})
	begun := make(chan struct{})
	wait := func() { begun <- struct{}{}; <-release }
	handle(reg, stuck, func(_ context.Context, b []byte) ([]byte, error) { wait(); return b, nil }, (*Handler).Inline)
	handleInPlace(reg, echo, func(context.Context, *Request) error { wait(); return nil }, (*Handler).Inline)
	l := newFakeLink()
	h := &holdingLink{fakeLink: l}
	newSessionOn(t, reg, h)
	for i, m := range []*ipc.Method[[]byte, []byte]{stuck, echo} {
		l.push(request(uint64(2*i+1), m))
		<-begun
		require.Eventually(t, func() bool { return h.ever.Load() == int32(i+1) }, time.Minute, time.Millisecond)
		require.Eventually(t, func() bool { return h.held.Load() == int32(i) }, time.Minute, time.Millisecond)
		release <- struct{}{}
		<-l.sent
		require.Eventually(t, func() bool { return h.held.Load() == 0 }, time.Minute, time.Millisecond)
	}
}

// What waits for its turn holds no memory of the link, and has its request all the same.
func TestWaitingRequestsAreCopied(t *testing.T) {
	reg := new(Registry)
	release := make(chan struct{})
	handleInPlace(reg, echo, func(_ context.Context, call *Request) error {
		<-release
		call.SetReply(call.Payload())
		return nil
	}, oneAtATime)
	l := newFakeLink()
	h := &holdingLink{fakeLink: l}
	s := newSessionOn(t, reg, h)
	const calls = 10
	memory := []byte("x")
	for i := range uint64(calls) {
		f := request(2*i+1, echo)
		f.Payload = []byte{byte(i)}
		if i == calls-1 {
			f.Payload = memory
		}
		l.push(f)
	}
	waiting := reg.find(echo.Info().ID).semaphore.queued
	require.Eventually(t, func() bool { return waiting() == calls-1 }, time.Minute, time.Millisecond)
	require.EqualValues(t, calls, s.inFlight.n.Load())
	require.EqualValues(t, 1, h.held.Load())
	memory[0] = 'y'
	for i := range uint64(calls) {
		release <- struct{}{}
		f := <-l.sent
		require.Equal(t, 2*i+1, f.Tx, "in their order")
		if i == calls-1 {
			require.Equal(t, "x", string(f.Payload))
		}
	}
	require.Eventually(t, func() bool { return h.held.Load() == 0 }, time.Minute, time.Millisecond)
}

// The context of a handler in place ends with it if anybody waits for that.
func TestContextInPlaceEnds(t *testing.T) {
	reg := new(Registry)
	var done <-chan struct{}
	handleInPlace(reg, echo, func(ctx context.Context, _ *Request) error { done = ctx.Done(); return nil }, (*Handler).Inline)
	_, l := newTestSession(t, reg)
	for i := range uint64(3) {
		l.push(request(2*i+1, echo))
		<-l.sent
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatal("the context is left behind")
		}
	}
}

// Limits of earlier uses of a call do not count for later ones.
func TestSweeperKnowsTheUse(t *testing.T) {
	s, _ := newTestSession(t, new(Registry))
	c, _, err := s.calls.register(nil)
	require.NoError(t, err)
	c.swept.Store(int64(time.Microsecond)) // as sleep does
	require.True(t, c.park())
	use := c.word.Load() >> 3
	require.Eventually(t, func() bool { s.calls.expire(); return c.expired.Load() == use }, time.Minute, time.Microsecond)
	require.True(t, c.giveUp())
	s.calls.release(c)

	again, _, err := s.calls.register(nil)
	require.NoError(t, err)
	for c != again { // others are free, too
		defer func(other *call) { other.giveUp(); s.calls.release(other) }(again)
		again, _, err = s.calls.register(nil)
		require.NoError(t, err)
	}
	require.True(t, c.park())
	require.Zero(t, s.calls.expire(), "nobody has said yet that it has a limit")
	c.swept.Store(int64(time.Hour))
	require.NotZero(t, s.calls.expire())
	require.Equal(t, use, c.expired.Load())
	require.Zero(t, c.deadline.Load(), "which is the caller's to set")
	require.True(t, c.giveUp())
	s.calls.release(c)
}

// A handler's semaphore is one for all links: requests of two sessions take turns, in
// the order in which they came. When one of the sessions ends meanwhile, its requests are
// not run.
func TestSemaphoreOfTwoSessions(t *testing.T) {
	reg := new(Registry)
	order, release := make(chan byte, 100), make(chan struct{})
	handle(reg, echo, func(ctx context.Context, b []byte) ([]byte, error) {
		order <- b[0]
		<-release
		return nil, ctx.Err()
	}, oneAtATime)
	a, la := newTestSession(t, reg)
	b, lb := newTestSession(t, reg)
	t.Cleanup(func() { close(release) })
	h := reg.find(echo.Info().ID)
	waiting := h.semaphore.queued
	for i := range byte(10) {
		s, l := a, la
		if i%2 == 1 {
			s, l = b, lb
		}
		f := request(2*uint64(i)+1, echo)
		f.Payload = []byte{i}
		l.push(f)
		require.Eventually(t, func() bool { return s.tracked.has(2*uint64(i)+1) && waiting() == int(i) && h.semaphore.isRunning() }, time.Minute, time.Millisecond)
	}
	lb.finish(ipc.ErrPeerGone)
	<-b.Done()
	for i := byte(0); i < 10; i += 2 {
		require.Equal(t, i, <-order)
		require.Empty(t, order, "one at a time")
		release <- struct{}{}
	}
	for i := range uint64(5) {
		f := <-la.sent
		require.Equal(t, 4*i+1, f.Tx)
		require.Equal(t, drivers.KindResponse, f.Kind)
	}
	require.Eventually(t, func() bool { return a.inFlight.n.Load()+b.inFlight.n.Load() == 0 }, time.Minute, time.Millisecond)
}
