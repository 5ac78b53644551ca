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
			err = r.handler.crashed(p)
		}
		if meta := r.ctx.answerMeta(); meta != nil {
			call.Header, call.Trailer = meta.Header(), meta.Trailer()
		}
	}()
	return r.handler.Invoke(r)
}

// intercept runs the handler of a stream inside of the interceptors of this side.
func (st *Stream) intercept(h *Handler) error {
	call := ipc.Call{Method: h.Info, Peer: st.session.peer, Metadata: st.handler.Metadata()}
	return st.session.config.Chain.ServeStream(st.ctx, call, st, func(ctx context.Context, call *ipc.Call, wrapped ipc.Stream) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = h.crashed(p)
			}
			if meta := st.handler.answerMeta(); meta != nil {
				call.Header, call.Trailer = meta.Header(), meta.Trailer()
			}
		}()
		return h.Stream(ctx, st, wrapped)
	})
}
