package shm

import (
	"context"
	"fmt"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
)

// attachBuffers takes places for the buffers of f, and appends their handles. It waits for places, so
// it is called without the lock of the senders.
func (l *link) attachBuffers(ctx context.Context, f *drivers.Frame) error {
	if f.Handles == nil {
		f.Handles = f.Attached.Space()
	}
	for i := range f.Attached.Buffers {
		b := &f.Attached.Buffers[i]
		h, err := l.exports.attach(ctx, b.What)
		if err != nil {
			if end := l.end.Load(); end != nil {
				return *end
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &drivers.AttachError{Err: process.Shortage(err)}
		}
		h.Number = b.Number
		f.Handles = h.Append(f.Handles)
	}
	return nil
}

// takeBuffer adds the buffer that h names to a.
func (l *link) takeBuffer(a *ipc.Attachments, h *drivers.Handle) error {
	if len(a.Buffers) == ipc.MaxBuffers {
		return fmt.Errorf("%w: shm: a frame with more than %d buffers", ipc.ErrProtocol, ipc.MaxBuffers)
	}
	b, err := l.imports.take(h)
	if err != nil {
		return err
	}
	a.Add(h.Number, b)
	return nil
}
