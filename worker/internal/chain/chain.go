// Package chain runs interceptors around calls and handlers.
package chain

import (
	"context"
	"sync"

	"github.com/tandemipc/tandem/ipc"
)

// Chain is the functions of interceptors, outermost first.
type Chain struct{ Call, Attempt, Handle Funcs }

// New returns the chain of interceptors, nil if they do nothing.
func New(list []ipc.Interceptor) *Chain {
	c := new(Chain)
	for _, i := range list {
		c.Call = c.Call.with(i.Call)
		c.Attempt = c.Attempt.with(i.Attempt)
		c.Handle = c.Handle.with(i.Handle)
	}
	if len(c.Call)+len(c.Attempt)+len(c.Handle) == 0 {
		return nil
	}
	return c
}

// Calls reports whether c, which may be nil, has functions for the calls that its side makes.
func (c *Chain) Calls() bool { return c != nil && len(c.Call)+len(c.Attempt) > 0 }

// Handles reports whether c, which may be nil, has functions for handlers.
func (c *Chain) Handles() bool { return c != nil && len(c.Handle) > 0 }

// Funcs are the functions for one purpose.
type Funcs []ipc.InterceptFunc

func (f Funcs) with(next ipc.InterceptFunc) Funcs {
	if next == nil {
		return f
	}
	return append(f, next)
}

// run calls the functions, and last behind the last one.
func (f Funcs) run(ctx context.Context, call *ipc.Call, last func(context.Context) error) error {
	if len(f) == 0 {
		return last(ctx)
	}
	return f[0](ctx, call, func(ctx context.Context) error { return f[1:].run(ctx, call, last) })
}

// Invoker makes a call, as [ipc.Caller.Invoke] does.
type Invoker func(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error)

// Invoke makes a call inside of the functions.
func (f Funcs) Invoke(ctx context.Context, inv *ipc.Invocation, attempt int, peer ipc.Peer, request, memory []byte, invoke Invoker) ([]byte, error) {
	if len(f) == 0 {
		return invoke(ctx, inv, request, memory)
	}
	call := &ipc.Call{
		Method: inv.Method, OneWay: inv.OneWay, Attempt: attempt, Peer: peer,
		Metadata: inv.Metadata, RequestSize: len(request),
	}
	response, err := f.exchange(ctx, call, func(ctx context.Context) ([]byte, error) {
		own := *inv
		call.Header, call.Trailer = nil, nil
		own.Metadata, own.Header, own.Trailer = call.Metadata, &call.Header, &call.Trailer
		response, err := invoke(ctx, &own, request, memory)
		memory = nil // it was taken over
		return response, err
	})
	if inv.Header != nil {
		*inv.Header = call.Header
	}
	if inv.Trailer != nil {
		*inv.Trailer = call.Trailer
	}
	return response, err
}

// Serve runs a handler once, inside of the functions.
func (f Funcs) Serve(ctx context.Context, call *ipc.Call, handle func(context.Context) ([]byte, error)) ([]byte, error) {
	served := false
	return f.exchange(ctx, call, func(ctx context.Context) ([]byte, error) {
		if served {
			return nil, ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor has called next twice for a request of %q", call.Method.Name)
		}
		served = true
		return handle(ctx)
	})
}

// exchange runs the functions around once, and returns the last result of that.
func (f Funcs) exchange(ctx context.Context, call *ipc.Call, once func(context.Context) ([]byte, error)) ([]byte, error) {
	var x result
	defer x.end() // whatever a function does: nobody uses request and memory any more
	err := f.run(ctx, call, func(ctx context.Context) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.over {
			return ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor has called next for %q after it has returned", call.Method.Name)
		}
		x.response, x.err = once(ctx)
		x.known, call.ResponseSize = true, len(x.response)
		return x.err
	})
	x.end()
	switch {
	case err != nil:
		return nil, err
	case x.err != nil && !call.OneWay:
		return nil, x.err
	case !x.known && !call.OneWay:
		return nil, ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor of %q has returned no error, and has not called next", call.Method.Name)
	}
	return x.response, nil
}

// result is what next has returned last.
type result struct {
	mu       sync.Mutex // held while next runs
	over     bool
	known    bool
	response []byte
	err      error
}

// end waits until next does not run, and sees to it that it does not run again.
func (x *result) end() {
	x.mu.Lock()
	x.over = true
	x.mu.Unlock()
}
