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
		codec := m.Codec(worker.Host(ctx).Codec())
		out := make([]byte, 0, len(batch)+len(batch)/8)
		for n := 0; len(batch) > 0; n++ {
			if n%16 == 0 && ctx.Err() != nil {
				return nil, ctx.Err()
			}
			in, rest, ok := nextFrame(batch)
			if !ok {
				return nil, ipc.Errorf(ipc.CodeInvalidArgument, "%w", errMalformed)
			}
			batch = rest
			start := len(out)
			var err error
			if out, err = handleOne(ctx, codec, m.Info().Name, f, in.body, openFrame(out)); err != nil {
				out = ipc.AppendError(openFrame(out[:start]), err)
			}
			if err := closeFrame(out, start, err != nil); err != nil {
				return nil, err
			}
		}
		return out, nil
	}, opts...)
}

// handleOne appends the encoded result of f for one record to out.
func handleOne[Req, Res any](ctx context.Context, codec ipc.Codec, name string, f func(context.Context, Req) (Res, error), body, out []byte) (_ []byte, err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if p := recover(); p != nil {
			err = &ipc.Error{Code: ipc.CodeInternal, Message: fmt.Sprintf("panic: %v", p), Stack: string(debug.Stack())}
			return
		}
		runtime.Goexit() // f has ended its goroutine, and the engine says so
	}()
	req, err := unmarshal[Req](codec, body) // the memory is the handlers', and nobody else's
	if err != nil {
		returned = true
		return out, ipc.Errorf(ipc.CodeInvalidArgument, "decode the request of %q: %w", name, err)
	}
	res, err := f(ctx, req)
	returned = true
	if err != nil {
		return out, err
	}
	encoded, err := ipc.Marshal(codec, out, res)
	if err != nil {
		return out, ipc.Errorf(ipc.CodeInternal, "encode the response of %q: %w", name, err)
	}
	return encoded, nil
}
