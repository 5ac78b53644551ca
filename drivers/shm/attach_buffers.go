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
	if len(f.Attached.Buffers) == 0 {
		return nil
	}
	handles := f.Handles
	if handles == nil {
		handles = f.Attached.Space()
	}
	handles, err := l.exports.attach(ctx, f.Attached.Buffers, handles)
	switch end := l.end.Load(); {
	case err == nil:
		f.Handles = handles
		return nil
	case end != nil:
		return *end
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return &drivers.AttachError{Err: process.Shortage(err)}
}

// takeBuffer adds the buffer that h names to a.
func (l *link) takeBuffer(a *ipc.Attachments, h *drivers.Handle) error {
	if len(a.Buffers) == ipc.MaxBuffers {
		return fmt.Errorf("%w: shm: a frame with more than %d buffers", ipc.ErrProtocol, ipc.MaxBuffers)
	}
	b, lost, err := l.imports.take(h)
	switch {
	case err != nil:
		return err
	case lost != nil:
		a.AddLost(h.Number, lost)
	default:
		a.Add(h.Number, b)
	}
	return nil
}
