// Package intercept has interceptors that are ready: logging, metrics, limits, recovery from
// panics. See [ipc.Interceptor] for what one is, and how to write another. They are given to
// worker.WithInterceptors for clients and pools, and to worker.WithServerInterceptors:
//
//	s := worker.NewServer(worker.WithServerInterceptors(
//		intercept.Logging(slog.Default(), intercept.LogOptions{}),
//		intercept.ConcurrencyLimit(intercept.Handlers, 100, 1000),
//	))
//
// The first one is the outermost: here, what the limit refuses is logged.
//
// The modules worker/otel and worker/prometheus have more.
package intercept

import (
	"context"

	"github.com/tandemipc/tandem/ipc"
)

// On says around what an interceptor is.
type On uint8

// Around what an interceptor can be. Calls | Handlers is both.
const (
	// Calls are the calls and notifications that its side makes.
	Calls On = 1 << iota
	// Handlers are the handlers of its side.
	Handlers
)

// interceptor returns an interceptor with f around what on says. It panics if that is nothing.
func (on On) interceptor(f ipc.InterceptFunc) ipc.Interceptor {
	var i ipc.Interceptor
	if on&(Calls|Handlers) == 0 {
		panic("tandem: an interceptor that is neither around calls nor around handlers")
	}
	if on&Calls != 0 {
		i.Call = f
	}
	if on&Handlers != 0 {
		i.Handle = f
	}
	return i
}

// errPanicked stands for the error of what has panicked or ended its goroutine.
var errPanicked = ipc.NewError(ipc.CodeInternal, "panicked, or ended its goroutine")

// around calls next, and then done with its error, also if next does not return.
func around(ctx context.Context, next func(context.Context) error, done func(err error)) error {
	returned := false
	defer func() {
		if !returned {
			done(errPanicked)
		}
	}()
	err := next(ctx)
	returned = true
	done(err)
	return err
}
