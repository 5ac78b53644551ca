package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Windows are how a full receiver holds up its sender. Each side says in its hello how
// many bytes of requests it takes that it has not finished with, and as many of
// notifications. A sender that has used its window up waits. The receiver counts what
// it has finished with, and gives that back in a credit frame whenever it has become a
// good part of the window. So nothing has to be refused, and the reader goes on to
// deliver what else comes, such as the answers that the handlers themselves wait for.
//
// One frame may exceed what is left of the window, whatever its size, so that the
// largest can be sent.

// costOf returns what a frame with a request, or with notifications, counts for.
func costOf(f *drivers.Frame) int64 {
	cost := int64(len(f.Payload))
	if f.Meta != nil {
		cost += int64(f.Meta.Size())
	}
	if f.Handles != nil {
		cost += int64(f.Inline)
	}
	if f.Kind == drivers.KindNotify {
		return cost + drivers.NotifyCost*int64(notifications(f))
	}
	return cost + drivers.RequestCost
}

// creditPart is the part of a window that is given back at once. Two counters are
// given back separately, so up to two such parts are not given back.
func creditPart(window int) int64 { return int64(window) / 4 }

// sendWindow is what we may send.
type sendWindow struct {
	size     int64
	sent     atomic.Int64 // in all
	returned atomic.Int64 // of that, what the peer has given back; the reader writes it

	mu      sync.Mutex
	changed chan struct{} // closed when returned grows, if anybody waits
}

func (w *sendWindow) init(size int) {
	if size <= 0 {
		size = drivers.DefaultWindow
	}
	w.size = int64(size)
}

// reserve takes cost from the window, and waits until there is room. It fails when ctx
// ends or done is closed.
func (w *sendWindow) reserve(ctx context.Context, done <-chan struct{}, cost int64) error {
	for !w.tryReserve(cost, 1) {
		if err := w.await(ctx, done, w.sent.Load()); err != nil {
			return err
		}
	}
	return nil
}

// tryReserve takes cost from the window if that much of it is left: room. It does not
// wait.
func (w *sendWindow) tryReserve(cost, room int64) bool {
	for cost > 0 {
		sent := w.sent.Load()
		if sent-w.returned.Load() > w.size-room {
			return false
		}
		if w.sent.CompareAndSwap(sent, sent+cost) {
			break
		}
	}
	return true
}

// cancel gives back what was reserved and not sent.
func (w *sendWindow) cancel(cost int64) {
	w.sent.Add(-cost)
	w.wake()
}

// await waits until the window may have room.
func (w *sendWindow) await(ctx context.Context, done <-chan struct{}, sent int64) error {
	w.mu.Lock()
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	changed := w.changed
	w.mu.Unlock()
	// SYNC: pairs with refill and cancel, which change the counters and then look for
	// changed.
	if w.sent.Load() != sent || sent-w.returned.Load() < w.size {
		return nil
	}
	select {
	case <-changed:
		return nil
	case <-done:
		return ipc.ErrDisconnected
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *sendWindow) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// refill takes what the peer gives back. It returns false if the peer gives back more
// than it got.
func (w *sendWindow) refill(n uint64) bool {
	if n > uint64(w.sent.Load()-w.returned.Load()) {
		return false
	}
	if n > 0 {
		w.returned.Add(int64(n))
		w.wake()
	}
	return true
}

// receiveWindow is what the peer may send. The reader writes its fields, but for byOthers
// and collected.
type receiveWindow struct {
	part      int64        // what is given back at once; never changed
	open      int64        // received and not known to be finished with
	byReader  int64        // what the reader itself has finished with and not given back
	byOthers  atomic.Int64 // what others have finished with and not given back
	collected atomic.Int64 // what others have finished with and the reader has not subtracted from open
}

// receive counts a message. It returns false if the peer sends what it must not: more
// than its window and one frame.
func (w *receiveWindow) receive(cost, limit int64) bool {
	if w.open += cost; w.open <= limit {
		return true
	}
	w.open -= w.collected.Swap(0)
	return w.open <= limit
}

// finishReading is called by the reader when it has finished with a message, and
// returns what is to be given back now.
func (w *receiveWindow) finishReading(cost int64) (credit int64) {
	w.open -= cost
	if w.byReader += cost; w.byReader < w.part {
		return 0
	}
	credit, w.byReader = w.byReader, 0
	return credit
}

// finish is finishReading for anybody.
func (w *receiveWindow) finish(cost int64) (credit int64) {
	w.collected.Add(cost)
	if w.byOthers.Add(cost) < w.part {
		return 0
	}
	return w.byOthers.Swap(0)
}

// maxOpen is what may be open at most: the window, and one frame beyond it.
func (s *Session) maxOpen() int64 {
	return int64(s.config.Window) + int64(s.config.MaxMessage) + 2*ipc.MaxMetadata + max(drivers.RequestCost, drivers.MaxPacked*drivers.NotifyCost)
}

// admit counts a request or a notification that has come. It is called with the reader
// state, and fails if the peer does not heed its window.
func (s *Session) admit(f *drivers.Frame) error {
	w, what := s.received(f.Kind == drivers.KindNotify), "requests"
	if f.Kind == drivers.KindNotify {
		what = "notifications"
		if f.Tx > drivers.MaxPacked {
			return fmt.Errorf("%w: a frame of %d notifications, at most %d are allowed", ipc.ErrProtocol, f.Tx, drivers.MaxPacked)
		}
		if isPacked(f) && f.Meta != nil {
			return fmt.Errorf("%w: a frame of %d notifications with metadata", ipc.ErrProtocol, f.Tx)
		}
	}
	if w.receive(costOf(f), s.maxOpen()) {
		return nil
	}
	return fmt.Errorf("%w: the peer has sent %d bytes of %s that are not finished with, and may send %d and one frame", ipc.ErrProtocol, w.open, what, s.config.Window)
}

// received returns the window of the notifications, or of the requests, that we get.
func (s *Session) received(oneWay bool) *receiveWindow {
	if oneWay {
		return &s.reader.notifications
	}
	return &s.reader.requests
}

// finishReading gives back what a message took of its window. It is called with the
// reader state.
func (s *Session) finishReading(oneWay bool, cost int64) {
	s.giveBack(oneWay, s.received(oneWay).finishReading(cost))
}

// finish is finishReading for goroutines without the reader state.
func (s *Session) finish(oneWay bool, cost int64) {
	s.giveBack(oneWay, s.received(oneWay).finish(cost))
}

// giveBack sends credit, if there is any.
func (s *Session) giveBack(oneWay bool, credit int64) {
	switch {
	case credit == 0:
	case oneWay:
		s.sendCredit(0, credit)
	default:
		s.sendCredit(credit, 0)
	}
}

// sendCredit gives the peer back what we have finished with. It does not block. The
// caller is a goroutine that s.handling counts.
func (s *Session) sendCredit(requests, notifications int64) {
	s.handling.Go(func() {
		f := &drivers.Frame{Kind: drivers.KindCredit, Payload: drivers.AppendCredit(nil, uint64(requests), uint64(notifications))}
		_ = s.link.Send(s.baseCtx, f) // the reader finds out if the link has ended
	})
}

// refill takes a credit frame.
func (s *Session) refill(f *drivers.Frame) error {
	requests, notifications, err := drivers.ParseCredit(f.Payload)
	if err != nil {
		return err
	}
	if !s.requestWindow.refill(requests) || !s.notificationWindow.refill(notifications) {
		return fmt.Errorf("%w: the peer gives back more than it got", ipc.ErrProtocol)
	}
	return nil
}
