package intercept

import (
	"context"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/tandemipc/tandem/ipc"
)

// Limiter says when the next one may begin. A *rate.Limiter of golang.org/x/time/rate is one.
type Limiter interface {
	// Allow reports whether one may begin now.
	Allow() bool
	// Wait waits until one may begin, or ctx ends, or it is clear that it will end before.
	Wait(ctx context.Context) error
}

// RateLimit refuses what a limiter does not allow, with an [*ipc.Error] of
// CodeResourceExhausted. On the side of the handlers a notification that is refused is
// dropped and logged. RateLimit panics if on is nothing or l is nil.
func RateLimit(on On, l Limiter) ipc.Interceptor {
	mustBeSet("RateLimit", l)
	return on.interceptor(func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
		if !l.Allow() {
			return ipc.Errorf(ipc.CodeResourceExhausted, "tandem: more of %q than its rate limit allows", call.Method.Name)
		}
		return next(ctx)
	})
}

// Throttle is [RateLimit], except that it waits for the limiter. If the limiter gives up
// before ctx has ended, since that will end too soon, the error is an [*ipc.Error] of
// CodeResourceExhausted. Around calls, only ctx bounds how long it waits, for the timeout of a
// call counts from when it is made. Notifications keep their order on the side of the
// handlers.
func Throttle(on On, l Limiter) ipc.Interceptor {
	mustBeSet("Throttle", l)
	return on.interceptor(func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
		if err := l.Wait(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return ipc.Errorf(ipc.CodeResourceExhausted, "tandem: wait for the rate limit of %q: %w", call.Method.Name, err)
		}
		return next(ctx)
	})
}

func mustBeSet(what string, l Limiter) {
	if l == nil {
		panic("tandem: " + what + ": the limiter is nil")
	}
}

// ConcurrencyLimit lets n calls or handlers run at a time, of which a stream is one, over all methods, links and clients
// that the interceptor is given to. Up to queue further ones wait for their turn until their
// contexts end, first come first served; what comes beyond is refused with an [*ipc.Error] of
// CodeResourceExhausted. A queue of 0 means that none waits.
//
// A handler that waits for a call which needs a turn of the same limit may wait for ever: give
// calls and handlers limits of their own.
//
// ConcurrencyLimit panics if on is nothing, n is less than 1 or queue is negative. worker's
// WithConcurrency bounds one handler, at less cost.
func ConcurrencyLimit(on On, n, queue int) ipc.Interceptor {
	if n < 1 || queue < 0 {
		panic(fmt.Sprintf("tandem: ConcurrencyLimit of %d with a queue of %d", n, queue))
	}
	turns := semaphore.NewWeighted(int64(n))
	var waiting atomic.Int64
	return on.interceptor(func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
		if !turns.TryAcquire(1) {
			if waiting.Add(1) > int64(queue) {
				waiting.Add(-1)
				return ipc.Errorf(ipc.CodeResourceExhausted, "tandem: %q: %d run at a time, and %d wait already", call.Method.Name, n, queue)
			}
			err := turns.Acquire(ctx, 1)
			waiting.Add(-1)
			if err != nil {
				return err
			}
		}
		defer turns.Release(1)
		return next(ctx)
	})
}
