package intercept

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/tandemipc/tandem/ipc"
)

// Recovery decides what becomes of panics: those of handlers, and those of interceptors that
// come after it. recovered gets an [*ipc.Error] of CodeInternal that says what has panicked,
// with the stack, and returns the error of the call: the same, or one without the stack, which
// otherwise goes to the caller. It must not return nil.
//
// Without Recovery a panic in a handler or in its interceptors is an error of CodeInternal with
// the stack. A panic in an interceptor around a call goes on in the goroutine that makes the
// call.
//
// Recovery panics if on is nothing or recovered is nil.
func Recovery(on On, recovered func(ctx context.Context, call *ipc.Call, panicked *ipc.Error) error) ipc.Interceptor {
	if recovered == nil {
		panic("tandem: Recovery(nil)")
	}
	return on.interceptor(func(ctx context.Context, call *ipc.Call, next func(context.Context) error) (err error) {
		defer func() {
			p := recover()
			var e *ipc.Error
			switch {
			case p != nil:
				e = ipc.NewError(ipc.CodeInternal, fmt.Sprintf("an interceptor of %q panicked: %v", call.Method.Name, p))
				e.Stack = string(debug.Stack())
			case !errors.As(err, &e) || e.Stack == "" || e.Remote():
				return
			}
			if err = recovered(ctx, call, e); err == nil {
				err = e
			}
		}()
		return next(ctx)
	})
}
