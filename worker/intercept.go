package worker

import (
	"context"
	"slices"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/chain"
	"github.com/tandemipc/tandem/worker/internal/engine"
)

// WithInterceptors puts interceptors around the calls that a client, or a pool, makes, and
// around the handlers that answer its workers' calls: see [ipc.Interceptor]. The first one is
// the outermost. Interceptors that are given later, by another of these options, are inside of
// those that were given before. Package worker/intercept has some that are ready.
func WithInterceptors(list ...ipc.Interceptor) Option {
	return func(s *Settings) { s.Interceptors = append(slices.Clip(s.Interceptors), list...) }
}

// WithServerInterceptors is [WithInterceptors] for a server: its interceptors are around the
// handlers, and around the calls that handlers make with [Host].
func WithServerInterceptors(list ...ipc.Interceptor) ServerOption {
	return func(s *Server) { s.interceptors = append(s.interceptors, list...) }
}

// intercepted is Invoke of a client whose calls have interceptors.
func (c *caller) intercepted(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	if inv.Attempt > 0 { // of a pool, whose own call has the interceptors for calls
		return c.attempts(ctx, inv, request, memory)
	}
	return c.chain.Call.Invoke(ctx, inv, 0, c.session().Peer(), request, memory, c.attempts)
}

// attempts makes a call, if need be more than once.
func (c *caller) attempts(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	if c.persists {
		return c.persist(ctx, inv, request, memory)
	}
	return c.attempt(ctx, c.session(), 1, inv, request, memory)
}

// attempt makes one attempt of a call, the one of number n.
func (c *caller) attempt(ctx context.Context, s *engine.Session, n int, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	if c.chain == nil || len(c.chain.Attempt) == 0 {
		return s.Invoke(ctx, inv, request, memory)
	}
	return c.chain.Attempt.Invoke(ctx, inv, max(n, inv.Attempt), s.Peer(), request, memory, s.Invoke)
}

// interceptor makes the calls that belong to the present link inside of the interceptors.
func (c *caller) interceptor() chain.Caller {
	s := c.session()
	return chain.Caller{Chain: c.chain, Link: s, Peer: s.Peer()}
}

// interceptedStream is OpenStream of a client whose calls have interceptors.
func (c *caller) interceptedStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	if inv.Attempt > 0 { // of a pool
		return c.attemptsStream(ctx, inv, o)
	}
	return c.chain.OpenStream(ctx, inv, c.session().Peer(), o, c.attemptsStream)
}

// attemptsStream opens a stream, if need be after more than one attempt.
func (c *caller) attemptsStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	if c.persists {
		return c.persistStream(ctx, inv, o)
	}
	return c.attemptStream(ctx, c.session(), 1, inv, o)
}

// attemptStream makes one attempt to open a stream, the one of number n.
func (c *caller) attemptStream(ctx context.Context, s *engine.Session, n int, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	if c.chain == nil || len(c.chain.Attempt) == 0 {
		return s.OpenStream(ctx, inv, o)
	}
	return c.chain.Attempt.Open(ctx, inv, max(n, inv.Attempt), s.Peer(), o, s.OpenStream)
}
