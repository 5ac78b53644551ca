// Package sendlock is the lock that the senders on a link share.
package sendlock

import (
	"context"
	"sync/atomic"
)

// Lock is a mutex whose waiters can leave. Taking and releasing it costs
// one atomic operation each while nobody waits.
//
//	state 0  free
//	      1  held, nobody waits
//	      2  held, someone may wait
//
// A waiter sets 2 before it waits, and so does whoever takes the lock after
// waiting, for others may wait still. Releasing from 2 leaves one token. A
// waiter that leaves may leave its token behind: the next one to wait takes it
// and looks again, no more.
type Lock struct {
	state atomic.Int32
	token chan struct{} // capacity 1
}

// Init makes the lock ready for use.
func (s *Lock) Init() { s.token = make(chan struct{}, 1) }

// TryLock takes the lock if it is free.
func (s *Lock) TryLock() bool { return s.state.CompareAndSwap(0, 1) }

// Lock takes the lock. It reports false if ctx or done ended first.
func (s *Lock) Lock(ctx context.Context, done <-chan struct{}) bool {
	if s.TryLock() {
		return true
	}
	for s.state.Swap(2) != 0 {
		select {
		case <-s.token:
		case <-ctx.Done():
			return false
		case <-done:
			return false
		}
	}
	return true
}

// Unlock releases the lock.
func (s *Lock) Unlock() {
	if s.state.Swap(0) == 2 {
		select {
		case s.token <- struct{}{}:
		default:
		}
	}
}
