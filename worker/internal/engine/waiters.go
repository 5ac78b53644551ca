package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// waitEndedError says that only the waiting has ended, and the call goes on.
type waitEndedError struct{ error }

// Unwrap returns why the waiting has ended.
func (e *waitEndedError) Unwrap() error { return e.error }

// await waits until c has ended, and polls the link if nobody else does. from is the
// context of the handler that makes the call, or nil. If await returns an error the
// call was given up, unless that is a waitEndedError: the call of an asyncCall has a
// context of its own beside ctx, and only ctx has ended.
func (s *Session) await(ctx context.Context, c *call, timeout time.Duration, from *requestContext) error {
	if c.done() {
		return nil
	}
	looked := false
	for promoted := false; ; {
		if promoted || s.acquire(from) {
			s.poll(ctx, c, timeout)
		} else if !looked {
			looked = true
			if s.lookOn(c) {
				if c.settled() {
					return nil
				}
				if s.acquire(from) { // it may be over now, but then the state has to be released
					s.poll(ctx, c, timeout)
				}
			}
		}
		if !c.park() {
			return nil
		}
		s.waiters.enqueue(c)
		if s.reader.state.Load()&readerState == readerUnarmed && s.acquire(nil) {
			// The last reader left before it could see this call, and has armed nothing.
			s.waiters.remove(c)
			promoted = true
			continue
		}
		err := s.sleep(ctx, c, timeout)
		promoted = s.waiters.remove(c)
		if err == nil && c.settled() {
			if promoted {
				s.release(true)
			}
			return nil
		}
		if err != nil {
			if promoted {
				s.release(true)
			}
			if c.also != nil && ctx.Err() != nil && err == ctx.Err() && c.also.Err() == nil {
				return &waitEndedError{err}
			}
			if c.giveUp() {
				return err
			}
			return nil
		}
	}
}

// awaitOthers is await for a goroutine that leaves the reading to others.
func (s *Session) awaitOthers(ctx context.Context, c *call) error {
	for {
		if !c.park() {
			return nil
		}
		err := s.sleep(ctx, c, 0)
		switch {
		case err == nil && c.settled():
			return nil
		case err != nil && c.giveUp():
			return err
		case err != nil:
			return nil
		}
	}
}

// looksOn is how often a caller looks, while another goroutine reads, before it parks: a few
// microseconds, which is less than it takes to be woken.
const looksOn = 2000

// lookOn waits for a moment while another goroutine reads. It returns true if c has ended, or
// nobody reads any more. It does not wait if others do, or if there is one processor.
func (s *Session) lookOn(c *call) bool {
	if s.oneProcessor || s.waiters.n.Load() > 0 {
		return false
	}
	for range looksOn {
		if c.done() || s.reader.state.Load()&readerTaken == 0 {
			return true
		}
	}
	return false
}

// sleep waits for wake. It returns an error when a context of c ends, or its timeout, if
// there is one, runs out.
func (s *Session) sleep(ctx context.Context, c *call, timeout time.Duration) error {
	if c.deadline.Load() != 0 && c.over(timeout) {
		return ErrTimeout
	}
	swept := timeout // by the sweeper
	if timeout < ownTimer {
		swept = 0
	}
	if c.swept.Load() != int64(swept) {
		c.swept.Store(int64(swept))
	}
	var ranOut <-chan time.Time
	switch {
	case swept > 0:
		s.sweeper.watch(s, timeout)
	case timeout > 0:
		left := c.deadlineOf(timeout) - monotonic()
		if c.timer == nil {
			c.timer = time.NewTimer(left)
		} else {
			c.timer.Reset(left)
		}
		defer c.timer.Stop()
		ranOut = c.timer.C
	}
	var also <-chan struct{}
	if c.also != nil {
		also = c.also.Done()
	}
	if ctx.Done() == nil && ranOut == nil && also == nil {
		<-c.wake // which takes far less than a select
	} else {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return ctx.Err()
		case <-also:
			return c.also.Err()
		case <-ranOut:
			return ErrTimeout
		}
	}
	if c.expired.Load() == c.word.Load()>>3 && timeout > 0 {
		return ErrTimeout
	}
	return nil
}

// waiters are the parked calls, in the order in which they parked. When the reader
// leaves it hands its state to one of them.
type waiters struct {
	n           atomic.Int32
	mu          sync.Mutex
	first, last *call
}

// enqueue puts c at the end of the list.
func (w *waiters) enqueue(c *call) {
	w.mu.Lock()
	c.listed, c.promoted = true, false
	c.prev, c.next = w.last, nil
	if w.last != nil {
		w.last.next = c
	} else {
		w.first = c
	}
	w.last = c
	w.n.Add(1)
	w.mu.Unlock()
}

// remove takes c off the list. It returns true if c was handed the reader state, and so
// holds it.
func (w *waiters) remove(c *call) (promoted bool) {
	w.mu.Lock()
	if c.listed {
		w.unlink(c)
	}
	promoted = c.promoted
	c.promoted = false
	w.mu.Unlock()
	return promoted
}

func (w *waiters) unlink(c *call) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		w.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		w.last = c.prev
	}
	c.next, c.prev, c.listed = nil, nil, false
	w.n.Add(-1)
}

// handOff gives the reader state to one call that still waits. It returns false if
// there is none.
func (w *waiters) handOff() bool {
	if w.n.Load() == 0 {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := w.first; c != nil; c = w.first {
		w.unlink(c)
		if c.state() == callParked {
			c.promoted = true
			c.notify()
			return true
		}
	}
	return false
}
