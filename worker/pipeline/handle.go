package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var errMalformed = errors.New("tandem: pipeline: malformed batch")

// batchMethod is the method by which batches of records for another method travel.
func batchMethod(name string) *ipc.Method[[]byte, []byte] {
	return ipc.NewMethod[[]byte, []byte](name+" in batches", ipc.WithCodec(ipc.Raw))
}

// Handle makes f answer calls of m, as [worker.Handle] does, and batches of records of a stage
// [Through] m, which it handles one after the other: one hop for many. A stage through a method
// that has a handler by worker.Handle alone works as well, with a call for each record.
//
// The options are for both. What f gets and returns, its context, and what becomes of an error
// or a panic is as with worker.Handle: it concerns one record. Handle panics as worker.Handle
// does, and for types that carry buffers or files.
func Handle[Req, Res any](r worker.Registrar, m *ipc.Method[Req, Res], f func(ctx context.Context, req Req) (Res, error), opts ...worker.HandlerOption) {
	worker.Handle(r, m, f, opts...)
	mustNotCarry[Req](m.Info().Name)
	mustNotCarry[Res](m.Info().Name)
	worker.Handle(r, batchMethod(m.Info().Name), func(ctx context.Context, batch []byte) ([]byte, error) {
		h := handling[Req, Res]{
			ctx: ctx, codec: m.Codec(worker.Host(ctx).Codec()), name: m.Info().Name, f: f,
			in: batch, out: make([]byte, 0, len(batch)+len(batch)/8),
		}
		for len(h.in) > 0 {
			if err := h.run(); err != nil {
				return nil, err
			}
		}
		return h.out, nil
	}, opts...)
}

// handling is a batch at its worker.
type handling[Req, Res any] struct {
	ctx   context.Context
	codec ipc.Codec
	name  string
	f     func(context.Context, Req) (Res, error)
	in    []byte // what is to be handled: the memory is the handlers', and nobody else's
	out   []byte // the answers
	start int    // where the frame of the last record begins
}

// run handles records until none is left, or f panics, which is the answer to that record. The error is
// why there is no answer to the batch.
func (h *handling[Req, Res]) run() (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if p := recover(); p != nil {
			err = h.fail(&ipc.Error{Code: ipc.CodeInternal, Message: fmt.Sprintf("panic: %v", p), Stack: string(debug.Stack())})
			return
		}
		runtime.Goexit() // f has ended its goroutine, and the engine says so
	}()
	err = h.each()
	returned = true
	return err
}

func (h *handling[Req, Res]) each() error {
	var req Req
	var res Res
	rawReq, rawRes := rawIn(h.codec, &req), rawIn(h.codec, &res)
	for n := 0; len(h.in) > 0; n++ {
		if n%16 == 0 && h.ctx.Err() != nil {
			return h.ctx.Err()
		}
		in, rest, ok := nextFrame(h.in)
		if !ok {
			return ipc.Errorf(ipc.CodeInvalidArgument, "%w", errMalformed)
		}
		h.in, h.start = rest, len(h.out)
		var err error
		if rawReq != nil {
			*rawReq = in.body
		} else if req, err = ipc.Unmarshal[Req](h.codec, in.body); err != nil {
			err = ipc.Errorf(ipc.CodeInvalidArgument, "decode the request of %q: %w", h.name, err)
		}
		if err == nil {
			res, err = h.f(h.ctx, req)
		}
		switch {
		case err != nil:
		case rawRes != nil:
			h.out = appendFrame(h.out, *rawRes)
			if len(*rawRes) <= maxFrame {
				continue
			}
		default:
			var out []byte
			if out, err = ipc.Marshal(h.codec, openFrame(h.out), res); err == nil {
				h.out = out
			} else {
				err = ipc.Errorf(ipc.CodeInternal, "encode the response of %q: %w", h.name, err)
			}
		}
		if err != nil {
			err = h.fail(err)
		} else {
			err = closeFrame(h.out, h.start, false)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fail makes an error the answer to the last record.
func (h *handling[Req, Res]) fail(err error) error {
	h.out = ipc.AppendError(openFrame(h.out[:h.start]), err)
	return closeFrame(h.out, h.start, true)
}

// rawIn returns v if it is the bytes of codec raw, nil otherwise.
func rawIn[T any](codec ipc.Codec, v *T) *[]byte {
	if codec != ipc.Raw {
		return nil
	}
	raw, _ := any(v).(*[]byte)
	return raw
}
