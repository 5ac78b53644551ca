package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Notifications are handled in their order and none is lost, however quick or slow the
// handler is, whether a reader runs it, and whether callers read as well.
func TestNotificationsKeepTheirOrder(t *testing.T) {
	for name, opts := range map[string][]func(*Handler){"adaptive": nil, "inline": {(*Handler).Inline}, "one at a time": {oneAtATime}} {
		t.Run(name, func(t *testing.T) {
			reg := new(Registry)
			const count = 3000
			var next uint64
			var wrong atomic.Int64
			done := make(chan struct{})
			handle(reg, told, func(_ context.Context, b []byte) ([]byte, error) {
				if n := binary.LittleEndian.Uint64(b); n != next {
					wrong.Add(1)
				}
				switch next++; {
				case rand.IntN(200) == 0:
					time.Sleep(2 * tick) // the watchdog takes over
				case rand.IntN(50) == 0:
					time.Sleep(20 * time.Microsecond)
				}
				if next == count {
					close(done)
				}
				return nil, nil
			}, opts...)
			s, l := newTestSession(t, reg)
			l.spin.Store(true)
			for i := range uint64(count) {
				l.push(drivers.Frame{Kind: drivers.KindNotify, Method: told.Info().ID, Payload: binary.LittleEndian.AppendUint64(nil, i)})
				if i%500 == 0 { // a caller reads for a while
					f, result := start(t, s, l)
					l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Payload: []byte("answer")})
					require.NoError(t, <-result)
				}
			}
			<-done
			require.Zero(t, wrong.Load())
			require.Eventually(t, func() bool { return !s.handles() }, time.Minute, time.Millisecond)
		})
	}
}

// A request whose caller has given up, or whose deadline has passed, while it waited for
// its turn is not run.
func TestGivenUpWhileWaiting(t *testing.T) {
	reg := new(Registry)
	release := make(chan struct{})
	var ran atomic.Int32
	handle(reg, echo, func(context.Context, []byte) ([]byte, error) {
		ran.Add(1)
		<-release
		return nil, nil
	}, oneAtATime)
	s, l := newTestSession(t, reg)
	waiting := reg.find(echo.Info().ID).semaphore.queued
	l.push(request(1, echo))
	l.push(request(3, echo))
	overdue := request(5, echo)
	overdue.Remaining = time.Millisecond
	l.push(overdue)
	l.push(request(7, echo))
	require.Eventually(t, func() bool { return waiting() == 3 }, time.Minute, time.Millisecond)
	l.push(drivers.Frame{Kind: drivers.KindCancel, Tx: 3})
	require.Eventually(t, func() bool { return s.tracked.byTxErr(3) != nil && s.tracked.byTxErr(5) != nil }, time.Minute, time.Millisecond)
	close(release)
	kinds := make(map[uint64]drivers.Kind)
	for range 4 {
		f := <-l.sent
		kinds[f.Tx] = f.Kind
	}
	require.Equal(t, map[uint64]drivers.Kind{1: drivers.KindResponse, 3: drivers.KindError, 5: drivers.KindError, 7: drivers.KindResponse}, kinds)
	require.EqualValues(t, 2, ran.Load())
}

// byTxErr returns how the context of a request has ended, nil if it has not.
func (t *tracked) byTxErr(tx uint64) error {
	t.mu.Lock()
	c := t.byTx[tx]
	t.mu.Unlock()
	if c == nil {
		return errors.New("unknown")
	}
	return c.Err()
}

// While the background reader runs a handler, a call takes the reader state over only if
// it is that handler's own. Only then, or by the watchdog, a handler counts as slow.
func TestOnlyItsOwnCallTakesOverFromAHandler(t *testing.T) {
	s := New(Config{Link: newFakeLink(), Handlers: new(Registry)})
	h := new(Handler)
	h.score.Store(scoreMax)
	b := new(backgroundReader)
	own, other := new(requestContext), new(requestContext)
	own.init(s, 1, 0)
	other.init(s, 3, 0)
	b.request = Request{session: s, handler: h, ctx: own}
	s.reader.running = b
	s.reader.state.Store(readerPolling)
	own.word = s.reader.state.Add(readerTurn + readerHandling - readerPolling)
	require.False(t, s.acquire(nil), "a call of somebody else")
	require.False(t, s.acquire(other), "a call of another handler")
	require.EqualValues(t, scoreMax, h.score.Load())
	require.True(t, s.acquire(own))
	require.EqualValues(t, scoreStuck, h.score.Load())
	s.Fail(ipc.ErrClosed) // ends the watchdog
	s.handling.Wait()
}

// logLines counts the records of a logger.
type logLines struct {
	slog.Handler
	n *atomic.Int64
}

func (l logLines) Enabled(context.Context, slog.Level) bool { return true }

func (l logLines) Handle(context.Context, slog.Record) error { l.n.Add(1); return nil }

// Notifications that wait for their turn when the session ends are not handled. They are
// not reported one by one.
func TestWaitingNotificationsOfAnEndedSession(t *testing.T) {
	for name, opts := range map[string][]func(*Handler){"in order": nil, "one at a time": {oneAtATime}} {
		t.Run(name, func(t *testing.T) {
			reg := new(Registry)
			began, release := make(chan struct{}), make(chan struct{})
			handle(reg, told, func(context.Context, []byte) ([]byte, error) { close(began); <-release; return nil, nil }, opts...)
			lines := new(atomic.Int64)
			l := newFakeLink()
			s := New(Config{Link: l, Codec: ipc.CBOR, MaxMessage: 1 << 20, Handlers: reg, Log: slog.New(logLines{slog.DiscardHandler, lines})})
			s.Open()
			const count = 1000
			for range count {
				l.push(drivers.Frame{Kind: drivers.KindNotify, Method: told.Info().ID})
			}
			require.Eventually(t, func() bool { return s.inFlight.n.Load() == count }, time.Minute, time.Millisecond)
			<-began
			l.finish(ipc.ErrPeerGone)
			<-s.Done()
			close(release)
			s.Close(0)
			require.Zero(t, s.inFlight.n.Load())
			s.dropped.mu.Lock()
			defer s.dropped.mu.Unlock()
			if s.dropped.n == 0 { // a second has passed
				require.EqualValues(t, 1, lines.Load())
				return
			}
			require.Zero(t, lines.Load())
			require.EqualValues(t, count-1, s.dropped.n)
		})
	}
}
