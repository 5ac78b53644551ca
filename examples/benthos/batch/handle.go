package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// ErrDrop is what a handler of [Handle] returns for a message that the stream should not have any more.
// The engine acknowledges it.
var ErrDrop = errors.New("tandem: the message is dropped")

// Handle makes f change the messages of batches for the handler of a name, one after the other; several batches
// may run at a time. If f returns an error, or panics, that concerns one message: it goes on as it
// came, marked as failed. [ErrDrop], and what wraps it, drops the message instead.
//
// The context ends when the engine has given the batch up: on its timeout, or because it stops.
// Handle panics as [worker.Handle] does.
func Handle(r worker.Registrar, name string, f func(ctx context.Context, m *Message) error, opts ...worker.HandlerOption) {
	HandleBatch(r, name, func(ctx context.Context, in []*Message) ([]*Message, error) {
		out := in[:0]
		for _, m := range in {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			err := protect(ctx, m, f)
			switch {
			case errors.Is(err, ErrDrop):
				continue
			case err != nil:
				m = &Message{from: m.from} // of which nothing has changed
				m.SetError(err)
			}
			out = append(out, m)
		}
		return out, nil
	}, opts...)
}

// protect calls f, and returns what it panics with as an error.
func protect(ctx context.Context, m *Message, f func(context.Context, *Message) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &ipc.Error{Code: ipc.CodeInternal, Message: fmt.Sprintf("panic: %v", p), Stack: string(debug.Stack())}
		}
	}()
	return f(ctx, m)
}

// HandleBatch makes f handle whole batches for the handler of a name. f returns the batch that goes on: any
// of the messages, in any order, and copies of them ([Message.Copy]). What it leaves out is dropped.
// If f returns an error, or panics, all messages of the batch go on as they came, marked as failed.
// f may use the slice that it gets for what it returns. Context and panics are as with [Handle].
func HandleBatch(r worker.Registrar, name string, f func(ctx context.Context, in []*Message) ([]*Message, error), opts ...worker.HandlerOption) {
	worker.Handle(r, NewMethod(name), func(ctx context.Context, items []Item) ([]Outcome, error) {
		in := make([]*Message, len(items))
		for i := range items {
			in[i] = newMessage(i, &items[i])
		}
		out, err := f(ctx, in)
		if err != nil {
			return nil, err
		}
		outcomes := make([]Outcome, len(out))
		for i, m := range out {
			if m == nil {
				return nil, ipc.Errorf(ipc.CodeInternal, "message %d of the result of %q is nil", i, name)
			}
			outcomes[i] = m.outcome()
		}
		return outcomes, nil
	}, opts...)
}
