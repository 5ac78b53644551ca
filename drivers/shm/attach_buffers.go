package shm

import (
	"context"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// attachBuffers takes places for the buffers of a frame, and writes their handles.
func (l *link) attachBuffers(ctx context.Context, f *drivers.Frame) error {
	f.Handles = f.Attached.Space()
	for i := range f.Attached.Buffers {
		b := &f.Attached.Buffers[i]
		h, err := l.exports.attach(ctx, b.What)
		if err != nil {
			l.unattachBuffers(f)
			if end := l.end.Load(); end != nil {
				err = *end
			}
			return err
		}
		h.Number = b.Number
		f.Handles = h.Append(f.Handles)
	}
	return nil
}

// unattachBuffers gives the places of a frame back that was not sent.
func (l *link) unattachBuffers(f *drivers.Frame) {
	for list := f.Handles; len(list) > 0; {
		h, rest, err := drivers.NextHandle(list)
		if err != nil {
			break
		}
		l.exports.undo(h.Place)
		list = rest
	}
	f.Handles = nil
}

// detachBuffer takes the buffer of a handle that has come.
func (l *link) detachBuffer(h *drivers.Handle, a *ipc.Attachments) error {
	b, err := l.imports.take(h)
	if err != nil {
		return err
	}
	a.Add(h.Number, b)
	return nil
}
