package engine

import (
	"context"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var (
	_ ipc.PartStream = (*Stream)(nil)
	_ ipc.WideStream = (*Stream)(nil)

	_ ipc.EndedStream = (*Stream)(nil)
)

// SendPart implements [ipc.PartStream]. What it sends is not gathered: it goes from b to the
// link.
func (st *Stream) SendPart(ctx context.Context, b []byte) (int, error) {
	o := &st.out
	if !o.lock.tryLock() {
		if err := o.lock.lock(ctx, st.ctx, nil); err != nil {
			return 0, st.whyNot(ctx, err)
		}
	}
	n, err := st.sendPart(ctx, b)
	o.lock.unlockSoon()
	return n, err
}

// sendPart is SendPart with the lock.
func (st *Stream) sendPart(ctx context.Context, b []byte) (int, error) {
	o := &st.out
	if o.closed || o.gone.Load() {
		return 0, st.notSendable()
	}
	if err := st.sendGathered(ctx); err != nil {
		return 0, err
	}
	n, err := st.roomFor(ctx, len(b))
	if err != nil {
		return 0, err
	}
	if err := st.transmit(ctx, drivers.ItemWhole, b[:n]); err != nil {
		return 0, err
	}
	return n, nil
}

// roomFor waits until the window has room for a piece of n bytes, or for as many as are worth a
// frame, and returns for how many.
func (st *Stream) roomFor(ctx context.Context, n int) (int, error) {
	o := &st.out
	n = min(n, st.session.maxPayload, drivers.MaxPiece)
	for {
		room := o.granted.Load() - o.sent - drivers.ItemHeader
		// The peer gives back at least a half of its window when it has read all.
		enough := min(int64(n)+8, max(o.most/2, drivers.InitialStreamWindow/2)-drivers.ItemHeader)
		if room >= enough {
			return int(min(int64(n), room&^7)), nil
		}
		if err := st.awaitWindow(ctx, enough+drivers.ItemHeader); err != nil {
			return 0, err
		}
	}
}
