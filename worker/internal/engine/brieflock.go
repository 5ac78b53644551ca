package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// briefLock is a mutex for what is rarely wanted by two goroutines at once, and whose waiters
// can leave. Taking it is one locked instruction, and so is unlock; unlockSoon takes none on
// most machines.
//
// A goroutine that releases the lock hands it to one that waits: held stays 1, and a token
// says so. A waiter that leaves, and was handed the lock meanwhile, releases it: who only
// tries would find it held for ever.
type briefLock struct {
	held    uint32
	waiting atomic.Int32
	token   chan struct{} // of capacity 1
}

func (l *briefLock) init() { l.token = make(chan struct{}, 1) }

func (l *briefLock) tryLock() bool { return atomic.CompareAndSwapUint32(&l.held, 0, 1) }

// errCallOver is how waiting for a lock ends when the call that it is for is over.
var errCallOver = errors.New("the call is over")

// lock takes the lock, unless ctx or other ends first, or it is found that own is over. other
// and own may be nil.
func (l *briefLock) lock(ctx, other context.Context, own *call) error {
	if l.tryLock() {
		return nil
	}
	var otherDone <-chan struct{}
	if other != nil {
		otherDone = other.Done()
	}
	// SYNC: pairs with unlock, which releases the lock and then loads waiting.
	l.waiting.Add(1)
	timer := time.NewTimer(maxPoll) // for unlockSoon, and for own
	defer timer.Stop()
	if err := l.await(ctx, otherDone, other, timer, own); err != nil {
		// SYNC: pairs with wake, which hands the lock over and then loads waiting.
		l.waiting.Add(-1)
		if l.takeBack() {
			l.wake()
		}
		return err
	}
	l.waiting.Add(-1)
	return nil
}

// await is lock for a goroutine that is counted as waiting.
func (l *briefLock) await(ctx context.Context, otherDone <-chan struct{}, other context.Context, timer *time.Timer, own *call) error {
	for !l.tryLock() {
		select {
		case <-l.token:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-otherDone:
			return other.Err()
		case <-timer.C:
			timer.Reset(maxPoll)
		}
		if own != nil && own.done() {
			return errCallOver
		}
	}
	return nil
}

// unlock releases the lock.
func (l *briefLock) unlock() {
	atomic.StoreUint32(&l.held, 0)
	l.wake()
}

// wake hands the lock, if it is free, to a waiter, if there is one.
func (l *briefLock) wake() {
	for l.waiting.Load() > 0 && l.tryLock() {
		l.token <- struct{}{} // there is none, for the lock was free
		// SYNC: pairs with lock, whose waiter leaves and then looks for a token.
		if l.waiting.Load() > 0 || !l.takeBack() {
			return
		}
	}
}

// takeBack releases the lock if it was handed to a waiter that has left.
func (l *briefLock) takeBack() bool {
	select {
	case <-l.token:
		atomic.StoreUint32(&l.held, 0)
		return true
	default:
		return false
	}
}
