package shm

import (
	"context"
	"fmt"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Shares implements [drivers.Sharer].
func (l *link) Shares() (buffers, files bool) { return true, false }

// attach passes what is attached to a frame.
func (l *link) attach(ctx context.Context, f *drivers.Frame) error { return l.attachBuffers(ctx, f) }

// unattach takes back what is attached to a frame that was not sent.
func (l *link) unattach(f *drivers.Frame) { l.unattachBuffers(f) }

// detach takes what is attached to a frame that has come.
func (l *link) detach(f *drivers.Frame) error {
	list := f.Handles
	f.Attached = new(ipc.Attachments)
	for len(list) > 0 {
		h, rest, err := drivers.NextHandle(list)
		if err == nil && len(f.Attached.Buffers) == ipc.MaxBuffers {
			err = fmt.Errorf("%w: shm: a frame with more than %d buffers", ipc.ErrProtocol, ipc.MaxBuffers)
		}
		if err == nil {
			err = l.detachBuffer(&h, f.Attached)
		}
		if err != nil {
			f.Attached.Release()
			f.Attached = nil
			return err
		}
		list = rest
	}
	return nil
}
