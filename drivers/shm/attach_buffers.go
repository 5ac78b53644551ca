package shm

import (
	"context"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// attachBuffers takes places for the buffers of a frame, and writes their handles.
func (l *link) attachBuffers(ctx context.Context, f *drivers.Frame) error {
	handles, err := l.exports.attach(ctx, f.Attached.Buffers, f.Handles)
	if err != nil {
		if end := l.end.Load(); end != nil {
			err = *end
		}
		return err
	}
	f.Handles = handles
	return nil
}

// unattachBuffers gives the places of a frame back that was not sent.
func (l *link) unattachBuffers(f *drivers.Frame) {
	l.exports.takeBack(f.Handles)
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
