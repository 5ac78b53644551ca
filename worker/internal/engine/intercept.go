package engine

import (
	"context"

	"github.com/tandemipc/tandem/ipc"
)

// intercept runs the handler of r inside of the interceptors of this side.
func (s *Session) intercept(r *Request) ([]byte, error) {
	call := &ipc.Call{
		Method: r.handler.Info, OneWay: r.oneWay, Peer: s.peer,
		Metadata: r.ctx.Metadata(), RequestSize: len(r.payload),
	}
	defer func() { r.outer = nil }()
	return s.config.Chain.Handle.Serve(r.ctx, call, func(ctx context.Context) (response []byte, err error) {
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
	})
}
