package worker

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
)

// Handlers is a set of handlers. [Handle] adds to it. Each [Server] and each [Client] has
// one, and [WithHandlers] makes several clients share one. The zero value is an empty
// set. Handlers is safe for concurrent use.
type Handlers struct{ registry engine.Registry }

func (h *Handlers) handlers() *engine.Registry { return &h.registry }

// HandledMethod is a method, or a stream, that has a handler.
type HandledMethod struct {
	ipc.MethodInfo
	// Stream says that it is a stream.
	Stream bool
}

// Methods returns the methods and streams that have handlers now, sorted by name.
func (h *Handlers) Methods() []HandledMethod {
	var list []HandledMethod
	for _, handler := range h.registry.Handlers() {
		list = append(list, HandledMethod{handler.Info, handler.Stream != nil})
	}
	slices.SortFunc(list, func(a, b HandledMethod) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Registrar is what [Handle] adds a handler to: a [Server], a [Client] whose worker calls
// back, a pool, or [Handlers]. It takes publishers of topics, too ([ipc.Topic.Publisher]).
type Registrar interface {
	ipc.StreamRegistrar
	handlers() *engine.Registry
}

// Handle makes f answer calls of m. It may be called at any time, also while calls come.
// f runs concurrently with itself and others, and may keep the request.
//
// The context of f ends when the caller gives up, when its deadline passes, when f has
// returned, or when the link ends. Its deadline is the deadline of the caller's context
// or the end of the call's timeout, whichever is earlier; then its error is
// [context.DeadlineExceeded]. If the caller gives up before f was called, f is not
// called.
//
// An error that f returns reaches the caller as an [*ipc.Error]. If it is one, it keeps
// its code; otherwise [ipc.CodeOf] finds the code. If f panics, the caller gets
// CodeInternal with the stack, and the worker lives on.
//
// f gets the notifications of one peer ([ipc.Method.Notify]) in order, one at a time,
// unless it is declared [WithConcurrency]. Their contexts have no deadline. There is no
// order between notifications of different methods, nor between notifications and calls.
//
// If f has been quick lately, the goroutine that reads the link runs it; otherwise f runs
// in a goroutine of its own. If f then turns slow or blocks, it holds the link up for
// about a millisecond, or five where calls have been rare, and has to be quick many times
// before the reader runs it again. [WithInline] and [WithConcurrency] change this.
//
// Handle panics if m has a handler already, and if m or f is nil.
func Handle[Req, Res any](r Registrar, m *ipc.Method[Req, Res], f func(ctx context.Context, req Req) (Res, error), opts ...HandlerOption) {
	checkHandler("Handle", m == nil, f == nil)
	h := &engine.Handler{Info: m.Info()}
	carries := ipc.Carries(reflect.TypeFor[Req]()) || ipc.Carries(reflect.TypeFor[Res]())
	h.Invoke = func(r *engine.Request) ([]byte, error) {
		codec := m.Codec(r.Codec())
		req, err := engine.Decode[Req](codec, r)
		if err != nil {
			return nil, notDecoded(m.Info().Name, err)
		}
		if carries {
			if err := ipc.Resolve(&req, r.Attached()); err != nil {
				return nil, notDecoded(m.Info().Name, err)
			}
		}
		r.Release()
		res, err := f(r.Context(), req)
		if err != nil {
			if carries {
				ipc.ReleaseAll(res)
			}
			return nil, err
		}
		if carries {
			a, err := ipc.Attach(res)
			if err != nil {
				ipc.ReleaseAll(res)
				return nil, ipc.Errorf(ipc.CodeInternal, "encode the response of %q: %w", m.Info().Name, err)
			}
			r.SetAttached(a)
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

// notDecoded is the error of a request of method that could not be decoded.
func notDecoded(method string, err error) error {
	code := ipc.CodeInvalidArgument
	if ipc.CodeOf(err) == ipc.CodeResourceExhausted {
		code = ipc.CodeResourceExhausted
	}
	return ipc.Errorf(code, "decode the request of %q: %w", method, err)
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

// WithInline makes the goroutine that reads the link run the handler, always. This saves
// the start of a goroutine. It is for handlers that are quick, though perhaps not every
// time: if a run takes long, another goroutine takes over reading after about a
// millisecond, or five where calls have been rare.
func WithInline() HandlerOption { return (*engine.Handler).Inline }

// WithConcurrency runs the handler in goroutines of its own, at most n at a time on all
// links together. Further requests wait, in the order in which they came. With an n of
// 1, notifications are handled in order; with a larger n they are not. It panics if n is
// not positive.
func WithConcurrency(n int) HandlerOption {
	if n <= 0 {
		panic(fmt.Sprintf("tandem: WithConcurrency(%d): need a positive number", n))
	}
	return func(h *engine.Handler) { h.Concurrent(n) }
}

// Host returns a caller with which a handler calls back the process that has called it.
// ctx is the context of the handler, or derived from it; for any other context Host
// returns nil. The caller is for the handler and the goroutines that it starts. A
// handler in place may not keep it.
func Host(ctx context.Context) ipc.Caller { return engine.CallerOf(ctx) }
