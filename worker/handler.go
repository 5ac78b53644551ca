package worker

import (
	"context"
	"fmt"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
)

// Handlers is a set of handlers, to which [Handle] adds. A [Server] and a [Client] have
// one each; [WithHandlers] makes several clients share one. Its zero value is empty. It
// is safe for concurrent use.
type Handlers struct{ registry engine.Registry }

func (h *Handlers) handlers() *engine.Registry { return &h.registry }

// Registrar takes handlers: a [Server], a [Client] whose worker calls back, or what has
// [Handlers].
type Registrar interface{ handlers() *engine.Registry }

// Handle makes f answer calls of m. It may be called while links are up. f is
// called concurrently, with a context that ends when the caller gives up, its
// deadline passes, the handler has returned, or the link ends. The deadline of the
// context is that of the caller, or the end of the timeout of the call if that comes
// earlier. What f gets is its own to keep.
//
// An error that f returns reaches the caller as an [*ipc.Error]: with its code
// if it is one, otherwise with the code that [ipc.CodeOf] finds. A panic becomes
// CodeInternal with the stack, and the worker lives on. A request whose caller has
// given up before f was called is not run.
//
// Notifications that one peer sends to a method with [ipc.Method.Notify] are handled in
// their order, one at a time, unless the handler is declared [WithConcurrency]. There is
// no order between notifications of different methods, nor between notifications and
// calls.
//
// A handler that has been quick lately is run by the goroutine that reads the
// link, and any other in a goroutine of its own; one that turns slow or blocks
// holds up the link for about a millisecond, and then has to be quick many times
// before the reader runs it again. [WithInline] and [WithConcurrency] decide otherwise.
//
// Handle panics if m has a handler already, and if m or f is nil.
func Handle[Req, Res any](r Registrar, m *ipc.Method[Req, Res], f func(ctx context.Context, req Req) (Res, error), opts ...HandlerOption) {
	checkHandler("Handle", m == nil, f == nil)
	h := &engine.Handler{Info: m.Info()}
	h.Invoke = func(r *engine.Request) ([]byte, error) {
		codec := m.Codec(r.Codec())
		req, err := engine.Decode[Req](codec, r)
		if err != nil {
			return nil, ipc.Errorf(ipc.CodeInvalidArgument, "decode the request of %q: %w", m.Info().Name, err)
		}
		r.Release()
		res, err := f(r.Context(), req)
		if err != nil {
			return nil, err
		}
		if codec == ipc.Raw {
			if raw, ok := any(res).([]byte); ok {
				return raw, nil
			}
		}
		if r.Out, err = ipc.Marshal(codec, r.Out, res); err != nil {
			return nil, ipc.Errorf(ipc.CodeInternal, "encode the response of %q: %w", m.Info().Name, err)
		}
		return r.Out, nil
	}
	register(r, h, opts)
}

func checkHandler(what string, noMethod, noFunc bool) {
	switch {
	case noMethod:
		panic("tandem: " + what + ": the method is nil")
	case noFunc:
		panic("tandem: " + what + ": the handler is nil")
	}
}

func register(r Registrar, h *engine.Handler, opts []HandlerOption) {
	for _, opt := range opts {
		opt(h)
	}
	r.handlers().Register(h)
}

// HandlerOption is an option of [Handle] and [HandleInPlace].
type HandlerOption func(*engine.Handler)

// WithInline makes the goroutine that reads the link run the handler, always. That
// saves the start of a goroutine where the handler is known to be quick, even if it was
// slow now and then. A run that takes long all the same holds the link up for a
// millisecond at most, for another reader takes over.
func WithInline() HandlerOption { return (*engine.Handler).Inline }

// WithConcurrency makes each run of the handler use a goroutine of its own, of which n
// run at once, on all links together. More requests wait for their turn, in the order in
// which they came. With n of 1 notifications are handled in their order, with more
// they are not. It panics if n is not positive.
func WithConcurrency(n int) HandlerOption {
	if n <= 0 {
		panic(fmt.Sprintf("tandem: WithConcurrency(%d): need a positive number", n))
	}
	return func(h *engine.Handler) { h.Concurrent(n) }
}

// Host returns a [ipc.Caller] for the process whose call ctx, the context of a
// handler, belongs to: with it a handler calls back. It returns nil for any
// other context. The caller is for the handler and the goroutines that it starts; a
// handler in place may not keep it.
func Host(ctx context.Context) ipc.Caller { return engine.CallerOf(ctx) }
