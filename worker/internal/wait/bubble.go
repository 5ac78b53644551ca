package wait

import (
	"context"
	"sync/atomic"
	"time"
)

// In a test with package testing/synctest the clock of package time stands still while
// a worker lives, for somebody waits in the kernel for what it does. What bounds the
// waiting for a worker goes by the real clock there.

// bubbled reports whether the caller runs in a synctest bubble. Only there time.Now has
// no monotonic reading, which Round strips.
func bubbled() bool {
	now := time.Now()
	return now == now.Round(0)
}

// maxNap is how long a goroutine in a bubble sleeps before it looks whether it is to end.
const maxNap = 10 * time.Millisecond

// After returns a channel that gets the time after d by the real clock. stop, which has
// to be called, frees what it holds.
func After(d time.Duration) (c <-chan time.Time, stop func()) {
	if !bubbled() {
		t := time.NewTimer(d)
		return t.C, func() { t.Stop() }
	}
	over := make(chan time.Time, 1)
	var stopped atomic.Bool
	go func() {
		for left := d; left > 0 && !stopped.Load(); left -= maxNap {
			nap(min(left, maxNap))
		}
		over <- time.Now()
	}()
	return over, func() { stopped.Store(true) }
}

// Pause returns after d by the real clock.
func Pause(d time.Duration) {
	if bubbled() {
		nap(d)
	} else {
		time.Sleep(d)
	}
}

// Timeout is context.WithTimeoutCause by the real clock. In a bubble the context is
// cancelled, for the same cause.
func Timeout(parent context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	if !bubbled() {
		return context.WithTimeoutCause(parent, d, cause)
	}
	ctx, cancel := context.WithCancelCause(parent)
	go func() {
		if !Within(ctx.Done(), d, nil) {
			cancel(cause)
		}
	}()
	return ctx, func() { cancel(nil) }
}
