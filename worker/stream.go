package worker

import (
	"context"
	"reflect"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
)

// HandleServerStream makes f answer requests of m, each with as many items as it sends to
// out. When f returns, what it has sent arrives, and then the end of the stream, or the error
// of f. Each run of f has a goroutine of its own, unless f has been quick lately: then the
// goroutine that reads the link runs it, as with [Handle].
//
// The context of f ends when the other side gives the stream up, when its deadline
// passes, when f has returned, or when the link ends. f may not use out after it has
// returned. Errors and panics of f reach the other side as those of [Handle] do.
// [WithConcurrency] bounds how many streams are served at a time; others wait for their turn.
//
// HandleServerStream panics if m has a handler already, and if m or f is nil.
func HandleServerStream[Req, Item any](r Registrar, m *ipc.ServerStream[Req, Item], f func(ctx context.Context, req Req, out *ipc.Sender[Item]) error, opts ...HandlerOption) {
	checkHandler("HandleServerStream", m == nil, f == nil)
	name := m.Info().Name
	handleStream(r, m, func(ctx context.Context, codec ipc.Codec, _ *engine.Stream, st ipc.Stream) error {
		req, attached, err := receiveRequest[Req](ctx, codec, st, name)
		if err != nil {
			return err
		}
		defer attached.Release()
		return f(ctx, req, ipc.NewSender[Item](st, codec, name))
	}, opts)
}

// HandleClientStream makes f answer streams of requests: f receives the items from in, and
// returns the one response. It may return before the last item has come. Otherwise it is like
// [HandleServerStream].
func HandleClientStream[Item, Res any](r Registrar, m *ipc.ClientStream[Item, Res], f func(ctx context.Context, in *ipc.Receiver[Item]) (Res, error), opts ...HandlerOption) {
	checkHandler("HandleClientStream", m == nil, f == nil)
	name := m.Info().Name
	handleStream(r, m, func(ctx context.Context, codec ipc.Codec, own *engine.Stream, st ipc.Stream) error {
		res, err := f(ctx, ipc.NewReceiver[Item](st, codec, name))
		defer ipc.ReleaseAll(res) // when it was sent, or will not be
		if err != nil {
			return err
		}
		own.TakeNoMore()
		return ipc.NewSender[Res](st, codec, name).Send(ctx, res)
	}, opts)
}

// HandleBidiStream makes f serve streams in both directions. f may send and receive in any
// order, also from two goroutines, one of which receives; all have to be done when f returns.
// Otherwise it is like [HandleServerStream].
func HandleBidiStream[Out, In any](r Registrar, m *ipc.BidiStream[Out, In], f func(ctx context.Context, in *ipc.Receiver[Out], out *ipc.Sender[In]) error, opts ...HandlerOption) {
	checkHandler("HandleBidiStream", m == nil, f == nil)
	name := m.Info().Name
	handleStream(r, m, func(ctx context.Context, codec ipc.Codec, _ *engine.Stream, st ipc.Stream) error {
		return f(ctx, ipc.NewReceiver[Out](st, codec, name), ipc.NewSender[In](st, codec, name))
	}, opts)
}

// streamMethod is what the kinds of streams have in common.
type streamMethod interface {
	Info() ipc.MethodInfo
	Codec(link ipc.Codec) ipc.Codec
}

func handleStream(r Registrar, m streamMethod, serve func(context.Context, ipc.Codec, *engine.Stream, ipc.Stream) error, opts []HandlerOption) {
	h := &engine.Handler{Info: m.Info()}
	h.Stream = func(ctx context.Context, own *engine.Stream, st ipc.Stream) error {
		return serve(ctx, m.Codec(own.Codec()), own, st)
	}
	register(r, h, opts)
}

// receiveRequest receives the one request of a stream of answers, and its attachments, which may
// be nil.
func receiveRequest[Req any](ctx context.Context, codec ipc.Codec, st ipc.Stream, name string) (req Req, a *ipc.Attachments, err error) {
	b, err := st.Receive(ctx)
	if err != nil {
		return req, nil, ipc.Errorf(ipc.CodeInvalidArgument, "receive the request of %q: %w", name, err)
	}
	if req, err = ipc.Unmarshal[Req](codec, b); err == nil && ipc.Carries(reflect.TypeFor[Req]()) {
		if st, ok := st.(ipc.AttachedStream); ok {
			a = st.Attachments()
		}
		err = ipc.Resolve(&req, a)
	}
	if err != nil {
		a.Release()
		return req, nil, notDecoded(name, err)
	}
	return req, a, nil
}
