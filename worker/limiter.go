package worker

import (
	"sync/atomic"
	"time"
)

// A call that sleeps has a limit, as a rule, and a timer for each would cost more
// than all else that sleeping takes. So a long limit is kept by one goroutine for all
// calls of a session, which looks now and then while any of them sleeps. It is
// late by a small part of the limit.
const (
	ownTimer     = time.Second // a call with a shorter limit has its own timer
	limiterShare = 64          // the limiter looks this often within a limit
	maxLook      = time.Second // and at least this often
)

// limiter wakes the sleeping calls whose limits have run out.
type limiter struct {
	active atomic.Bool
	look   atomic.Int64  // time between two looks, in ns
	hurry  chan struct{} // capacity 1: look has become shorter
}

// begin makes the limiter look for c, which has parked and sleeps from now on.
func (l *limiter) begin(s *session, limit time.Duration) {
	look := int64(min(limit/limiterShare, maxLook))
	// SYNC: pairs with limiter.run, which stores active and then looks for calls
	// that have parked and have a limit that is kept.
	if l.active.Load() || !l.active.CompareAndSwap(false, true) {
		if look < l.look.Load() {
			l.look.Store(look)
			select {
			case l.hurry <- struct{}{}:
			default:
			}
		}
		return
	}
	// Who comes before this has been stored finds maxLook+1, and makes run hurry.
	l.look.Store(look)
	go l.run(s)
}

func (l *limiter) run(s *session) {
	t := time.NewTimer(time.Duration(l.look.Load()))
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-l.hurry:
		case <-s.done:
			return
		}
		l.look.Store(int64(maxLook) + 1) // who comes from now on may have been overlooked
		next := s.calls.expire()
		if next == 0 {
			l.active.Store(false)
			if next = s.calls.expire(); next == 0 || !l.active.CompareAndSwap(false, true) {
				return
			}
		}
		l.look.Store(int64(next))
		t.Reset(next)
	}
}

// expire wakes the calls whose limits have run out, and returns when to look again,
// or 0 if no call sleeps that has one.
func (t *calls) expire() (next time.Duration) {
	p := t.all.Load()
	if p == nil {
		return 0
	}
	t.expiring.Lock()
	defer t.expiring.Unlock()
	now := since()
	for _, c := range *p {
		word, limit := c.word.Load(), time.Duration(c.kept.Load())
		if word&callState != callParked || limit == 0 {
			continue
		}
		// If nobody knows when its time began, that is now. Only this use's: the call
		// may be another one meanwhile.
		if c.keptUse != word>>3 {
			c.keptUse, c.keptUntil = word>>3, now+limit
		}
		until := c.keptUntil
		if deadline := time.Duration(c.deadline.Load()); deadline != 0 {
			until = min(until, deadline)
		}
		if until <= now && c.word.Load() == word {
			c.expired.Store(word >> 3)
			c.notify()
		}
		if look := min(limit/limiterShare, maxLook); next == 0 || look < next {
			next = look
		}
	}
	return next
}

var processStart = time.Now()

// since is a clock that starts with the process, and is never 0.
func since() time.Duration { return time.Since(processStart) + 1 }
