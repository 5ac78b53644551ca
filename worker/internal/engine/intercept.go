package engine

import (
	"context"

	"github.com/tandemipc/tandem/ipc"
)

// intercept runs the handler of r inside of the interceptors of this side.
func (s *Session) intercept(r *Request) ([]byte, error) {
	defer func() { r.outer = nil }()
	return s.config.Chain.Handle.Serve(r.ctx, ipc.Call{
		Method: r.handler.Info, OneWay: r.oneWay, Peer: s.peer,
		Metadata: r.ctx.Metadata(), RequestSize: len(r.payload),
	}, (*intercepted)(r))
}

// intercepted is a request inside of interceptors.
type intercepted Request

// Serve implements [chain.Server]. A handler that panics is an error for its interceptors.
func (i *intercepted) Serve(ctx context.Context, call *ipc.Call) (response []byte, err error) {
	r := (*Request)(i)
	if ctx != context.Context(r.ctx) {
		r.outer = ctx
	}
	defer func() {
		if p := recover(); p != nil {
			err = r.crashed(p)
		}
		if meta := r.ctx.answerMeta(); meta != nil {
			call.Header, call.Trailer = meta.Header(), meta.Trailer()
		}
	}()
	return r.handler.Invoke(r)
}
