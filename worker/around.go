package worker

import (
	"context"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/chain"
)

// Intercept returns a caller that makes the calls of c, and opens its streams, inside of
// interceptors, the first of which is the outermost. Clients and pools take interceptors as an
// option ([WithInterceptors]); this is for callers of other packages. Attempt of an interceptor is around each call once, and
// Peer of an [ipc.Call] is the zero Peer. The functions for handlers mean nothing here. If there is nothing to
// do Intercept returns c itself.
func Intercept(c ipc.Caller, list ...ipc.Interceptor) ipc.Caller {
	chain := chain.New(list)
	if !chain.Calls() {
		return c
	}
	return around{chain, c}
}

// around is a caller inside of interceptors.
type around struct {
	chain *chain.Chain
	inner ipc.Caller
}

var _ ipc.StreamCaller = around{}

// Codec implements [ipc.Caller].
func (a around) Codec() ipc.Codec { return a.inner.Codec() }

// Invoke implements [ipc.Caller].
func (a around) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	return a.chain.Call.Invoke(ctx, inv, inv.Attempt, ipc.Peer{}, request, memory, func(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
		return a.chain.Attempt.Invoke(ctx, inv, max(1, inv.Attempt), ipc.Peer{}, request, memory, a.inner.Invoke)
	})
}

// OpenStream implements [ipc.StreamCaller].
func (a around) OpenStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	return a.chain.OpenStream(ctx, inv, ipc.Peer{}, o, func(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
		return a.chain.Attempt.Open(ctx, inv, max(1, inv.Attempt), ipc.Peer{}, o, func(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
			if s, ok := a.inner.(ipc.StreamCaller); ok {
				return s.OpenStream(ctx, inv, o)
			}
			return nil, ipc.Errorf(ipc.CodeUnimplemented, "open the stream %q: %w: a %T opens no streams", inv.Method.Name, ipc.ErrUnsupported, a.inner)
		})
	})
}
