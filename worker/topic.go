package worker

import (
	"context"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
)

// RegisterStream adds a handler of streams of encoded items. It is what publishers of topics are built on:
// see [ipc.StreamRegistrar].
func (h *Handlers) RegisterStream(m ipc.MethodInfo, serve func(ctx context.Context, st ipc.Stream, draining <-chan struct{}) error) (remove func()) {
	return registerStream(h, m, serve)
}

// RegisterStream is [Handlers.RegisterStream] for the handlers that answer this client's worker.
func (c *Client[C]) RegisterStream(m ipc.MethodInfo, serve func(ctx context.Context, st ipc.Stream, draining <-chan struct{}) error) (remove func()) {
	return registerStream(c, m, serve)
}

func registerStream(r Registrar, m ipc.MethodInfo, serve func(context.Context, ipc.Stream, <-chan struct{}) error) (remove func()) {
	h := &engine.Handler{Info: m, Stream: func(ctx context.Context, own *engine.Stream, st ipc.Stream) error {
		return serve(ctx, st, own.Draining())
	}}
	register(r, h, []HandlerOption{(*engine.Handler).Lasting})
	return func() { r.handlers().Remove(h) }
}
