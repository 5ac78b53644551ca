// Package chain runs interceptors around calls and handlers.
package chain

import (
	"context"
	"sync"

	"github.com/tandemipc/tandem/ipc"
)

// Chain is the functions of interceptors, outermost first.
type Chain struct {
	Call, Attempt, Handle Funcs
	Stream                []func(context.Context, *ipc.Call, ipc.Stream) ipc.Stream
}

// New returns the chain of interceptors, nil if they do nothing.
func New(list []ipc.Interceptor) *Chain {
	c := new(Chain)
	for _, i := range list {
		c.Call = c.Call.with(i.Call)
		c.Attempt = c.Attempt.with(i.Attempt)
		c.Handle = c.Handle.with(i.Handle)
		if i.Stream != nil {
			c.Stream = append(c.Stream, i.Stream)
		}
	}
	if len(c.Call)+len(c.Attempt)+len(c.Handle)+len(c.Stream) == 0 {
		return nil
	}
	return c
}

// Calls reports whether c, which may be nil, has functions for the calls that its side makes.
func (c *Chain) Calls() bool { return c != nil && len(c.Call)+len(c.Attempt)+len(c.Stream) > 0 }

// Handles reports whether c, which may be nil, has functions for handlers.
func (c *Chain) Handles() bool { return c != nil && len(c.Handle) > 0 }

// HandlesStreams is Handles for the handlers of streams.
func (c *Chain) HandlesStreams() bool { return c != nil && len(c.Handle)+len(c.Stream) > 0 }

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
	x := &exchange{inv: inv, request: request, memory: memory, invoke: invoke, call: ipc.Call{
		Method: inv.Method, OneWay: inv.OneWay, Attempt: attempt, Peer: peer,
		Metadata: inv.Metadata, RequestSize: len(request),
	}}
	defer x.end() // whatever a function does: nobody uses request and memory any more
	response, err := x.result(f.run(ctx, &x.call, x.next))
	if inv.Header != nil {
		*inv.Header = x.call.Header
	}
	if inv.Trailer != nil {
		*inv.Trailer = x.call.Trailer
	}
	return response, err
}

// Server runs the handler of one request.
type Server interface {
	// Serve runs it. It is called once at most.
	Serve(ctx context.Context, call *ipc.Call) ([]byte, error)
}

// Serve runs a handler inside of the functions.
func (f Funcs) Serve(ctx context.Context, call ipc.Call, s Server) ([]byte, error) {
	x := &exchange{call: call, server: s}
	defer x.end()
	return x.result(f.run(ctx, &x.call, x.next))
}

// exchange is a call, or a request that is handled, inside of functions.
type exchange struct {
	call ipc.Call
	// Of a call.
	inv             *ipc.Invocation
	request, memory []byte
	invoke          Invoker
	// Of a request.
	server Server

	mu       sync.Mutex // held while next runs; guards what follows
	over     bool
	known    bool // next has returned
	response []byte
	err      error
}

// next is the innermost next.
func (x *exchange) next(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.over:
		return ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor has called next for %q after it has returned", x.call.Method.Name)
	case x.server == nil:
		own := *x.inv
		x.call.Header, x.call.Trailer = nil, nil
		own.Owned = false // next may be called again
		own.Metadata, own.Header, own.Trailer = x.call.Metadata, &x.call.Header, &x.call.Trailer
		x.response, x.err = x.invoke(ctx, &own, x.request, x.memory)
		x.memory = nil // it was taken over
	case x.known:
		x.response, x.err = nil, ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor has called next twice for a request of %q", x.call.Method.Name)
	default:
		x.response, x.err = x.server.Serve(ctx, &x.call)
	}
	x.known, x.call.ResponseSize = true, len(x.response)
	return x.err
}

// end waits until next does not run, and sees to it that it does not run again.
func (x *exchange) end() {
	x.mu.Lock()
	x.over = true
	x.mu.Unlock()
}

// result returns what comes of an exchange whose functions have returned err.
func (x *exchange) result(err error) ([]byte, error) {
	x.end()
	switch {
	case err != nil:
		return nil, err
	case x.err != nil && !x.call.OneWay:
		return nil, x.err
	case !x.known && !x.call.OneWay:
		return nil, ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor of %q has returned no error, and has not called next", x.call.Method.Name)
	}
	return x.response, nil
}
