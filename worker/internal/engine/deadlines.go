package engine

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// A call that sleeps has a timeout, as a rule, and a timer for each would cost more
// than all else that sleeping takes. So one goroutine looks after the long timeouts of
// all calls of a session: it looks now and then while any of them sleeps, and is late
// by a small part of the timeout.
const (
	ownTimer   = time.Second // a call with a shorter timeout has its own timer
	sweepShare = 64          // the sweeper looks this often within a timeout
	maxSweep   = time.Second // and at least this often
)

// ErrTimeout is how waiting ends when the timeout of a call runs out, that of a [Resumer]
// included.
var ErrTimeout = errors.New("timeout")

// TimedOut returns the error of a call of a method that took longer than timeout.
func TimedOut(method string, timeout time.Duration) error {
	return &ipc.TimeoutError{What: fmt.Sprintf("call of %q", method), After: timeout}
}

var processStart = time.Now()

// monotonic is a clock that starts with the process, and is never 0.
func monotonic() time.Duration { return time.Since(processStart) + 1 }

// after returns d after now, and does not overflow.
func after(now, d time.Duration) time.Duration {
	if now > 0 && d > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + d
}

// deadlineOf returns when a call with this timeout has to end, by monotonic. Its time
// begins with the first look.
func (c *call) deadlineOf(timeout time.Duration) time.Duration {
	if c.deadline.Load() == 0 {
		c.deadline.CompareAndSwap(0, int64(after(monotonic(), timeout)))
	}
	return time.Duration(c.deadline.Load())
}

// over reports whether the timeout has run out.
func (c *call) over(timeout time.Duration) bool {
	return timeout > 0 && monotonic() >= c.deadlineOf(timeout)
}

// deadlineSweeper wakes the sleeping calls whose timeouts have run out.
type deadlineSweeper struct {
	active atomic.Bool
	pause  atomic.Int64  // between two looks, in ns
	hurry  chan struct{} // capacity 1: pause has become shorter
}

func (w *deadlineSweeper) init() {
	w.hurry = make(chan struct{}, 1)
	w.pause.Store(int64(maxSweep) + 1)
}

// watch makes the sweeper look after a call with this timeout, which has parked and
// sleeps from now on.
func (w *deadlineSweeper) watch(s *Session, timeout time.Duration) {
	pause := int64(min(timeout/sweepShare, maxSweep))
	// SYNC: pairs with deadlineSweeper.run, which stores active and then looks for
	// calls that have parked and have a timeout that is swept.
	if w.active.Load() || !w.active.CompareAndSwap(false, true) {
		if pause < w.pause.Load() {
			w.pause.Store(pause)
			select {
			case w.hurry <- struct{}{}:
			default:
			}
		}
		return
	}
	// A caller that comes before this has been stored finds maxSweep+1, and makes run
	// hurry.
	w.pause.Store(pause)
	go w.run(s)
}

func (w *deadlineSweeper) run(s *Session) {
	t := time.NewTimer(time.Duration(w.pause.Load()))
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-w.hurry:
		case <-s.lifetime.done:
			return
		}
		w.pause.Store(int64(maxSweep) + 1) // a caller that comes from now on may be overlooked
		next := s.calls.expire()
		if next == 0 {
			w.active.Store(false)
			if next = s.calls.expire(); next == 0 || !w.active.CompareAndSwap(false, true) {
				return
			}
		}
		w.pause.Store(int64(next))
		t.Reset(next)
	}
}

// expire wakes the calls whose timeouts have run out. It returns when to look again,
// or 0 if no call sleeps that has a timeout.
func (t *pendingCalls) expire() (next time.Duration) {
	p := t.all.Load()
	if p == nil {
		return 0
	}
	t.expiring.Lock()
	defer t.expiring.Unlock()
	now := monotonic()
	for _, c := range *p {
		word, timeout := c.word.Load(), time.Duration(c.swept.Load())
		if word&callState != callParked || timeout == 0 {
			continue
		}
		// If nobody knows when its time began, that is now. It is this use's time only:
		// the call may be another one meanwhile.
		if c.sweptUse != word>>3 {
			c.sweptUse, c.sweptUntil = word>>3, after(now, timeout)
		}
		until := c.sweptUntil
		if deadline := time.Duration(c.deadline.Load()); deadline != 0 {
			until = min(until, deadline)
		}
		if until <= now && c.word.Load() == word {
			c.expired.Store(word >> 3)
			c.notify()
		}
		if pause := min(timeout/sweepShare, maxSweep); next == 0 || pause < next {
			next = pause
		}
	}
	return next
}
