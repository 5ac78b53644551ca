package intercept

import (
	"context"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// Role says what was measured or logged.
type Role uint8

// The roles, as the functions of [ipc.Interceptor] have them.
const (
	RoleCall    Role = iota + 1 // a call or notification that this side has made, or a stream that it has opened
	RoleAttempt                 // an attempt of one
	RoleHandler                 // a handler that has run on this side
)

// String returns "call", "attempt" or "handler".
func (r Role) String() string {
	switch r {
	case RoleCall:
		return "call"
	case RoleAttempt:
		return "attempt"
	case RoleHandler:
		return "handler"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// Recorder takes what [Metrics] measures. Its methods are called concurrently, where calls and
// handlers run, so they should be quick. They may not keep call.
type Recorder interface {
	// Begin is called before something begins.
	Begin(role Role, call *ipc.Call)
	// End is called once for each Begin. call then also has the size of the response, or the
	// items of a stream.
	End(role Role, call *ipc.Call, r Result)
}

// Result is how a call, an attempt or a handler has ended.
type Result struct {
	// Duration is how long it took.
	Duration time.Duration
	// Err is nil, or why it has failed.
	Err error
	// Code is what [ipc.CodeOf] says of Err: 0 if that is nil.
	Code ipc.Code
}

// Metrics measures calls, attempts and handlers: how many there are, how many run, how long
// they take, and the sizes of their messages. Modules worker/prometheus and worker/otel have
// recorders of their own. Metrics panics if r is nil.
func Metrics(r Recorder) ipc.Interceptor {
	if r == nil {
		panic("tandem: Metrics(nil)")
	}
	measure := func(role Role) ipc.InterceptFunc {
		return func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			r.Begin(role, call)
			began := time.Now()
			return around(ctx, next, func(err error) { r.End(role, call, Result{time.Since(began), err, ipc.CodeOf(err)}) })
		}
	}
	return ipc.Interceptor{Call: measure(RoleCall), Attempt: measure(RoleAttempt), Handle: measure(RoleHandler)}
}
