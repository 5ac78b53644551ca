package engine

import (
	"context"

	"github.com/tandemipc/tandem/ipc"
)

var _ ipc.MemoryStream = (*Stream)(nil)

// SharesMemory implements [ipc.MemoryStream].
func (st *Stream) SharesMemory() bool { return st.session.shares.buffers && st.session.shares.files }

// SendAttached implements [ipc.AttachedStream]. Such an item travels by itself, after what is
// gathered. Its attachments are those of its last frame.
func (st *Stream) SendAttached(ctx context.Context, item []byte, a *ipc.Attachments) error {
	if a.Empty() {
		return st.Send(ctx, item)
	}
	o := &st.out
	if err := o.lock.lock(ctx, st.ctx, nil); err != nil {
		return st.whyNot(ctx, err)
	}
	defer o.lock.unlock()
	if o.closed || o.gone.Load() {
		return st.notSendable()
	}
	if err := st.sendGathered(ctx); err != nil {
		return err
	}
	packed, handles, left, err := st.session.pack(item, a)
	if err != nil {
		return err
	}
	return st.sendAlone(ctx, packed, handles, left)
}

// Attachments implements [ipc.AttachedStream].
func (st *Stream) Attachments() *ipc.Attachments {
	return st.in.attached.Swap(nil)
}

// takeAttached takes the attachments of the present chunk, and returns the item without those that
// were in its bytes.
func (st *Stream) takeAttached(item []byte) ([]byte, error) {
	in := &st.in
	with := in.current.with
	in.current.with = nil
	a := with.attached
	if len(with.handles) > 0 && !st.session.shares.buffers {
		var err error
		if item, a, err = st.session.unpack(item, with.handles, a, false); err != nil {
			a.Release()
			return nil, st.broken(err)
		}
	}
	in.attached.Store(a)
	return item, nil
}
