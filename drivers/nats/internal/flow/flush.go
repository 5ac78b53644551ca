package flow

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

// maxIdle is the largest memory that is kept for gathered items while a flow pauses.
const maxIdle = 4 << 10

const (
	minFlush = 50 * time.Microsecond
	maxFlush = time.Millisecond
)

// flushLater has what is gathered sent, when nothing was sent for a while. The longer the flow
// goes on sending, the less often that is looked at. The lock is held.
func (f *Flow) flushLater() {
	o := &f.out
	o.seen, o.pause = o.frames, minFlush
	o.timer.Reset(minFlush)
}

// flushSoon is called by the timer.
func (f *Flow) flushSoon() {
	o := &f.out
	if !f.tryLock() {
		if !o.waiting.Load() { // who waits for the window sets the timer
			o.timer.Reset(maxFlush)
		}
		return
	}
	defer f.unlock()
	switch {
	case len(o.buffer) == 0:
	case o.frames != o.seen:
		o.seen = o.frames
		o.pause = min(2*o.pause, maxFlush)
		o.timer.Reset(o.pause)
	default:
		f.flushLocked()
	}
}

// flushNow sends what is gathered if the peer takes it now and nobody else is sending.
func (f *Flow) flushNow() {
	if f.tryLock() {
		f.flushLocked()
		f.unlock()
	}
}

// flushLocked sends what is gathered if the peer takes it now. If it does not yet, the frame with
// which it does sets the timer.
func (f *Flow) flushLocked() {
	o := &f.out
	if len(o.buffer) == 0 || f.sendable() != nil {
		return
	}
	if n := cost(len(o.buffer)); o.granted.Load()-o.sent < n {
		// SYNC: pairs with out.widen, which stores granted and then loads starved.
		o.starved.Store(true)
		if o.granted.Load()-o.sent < n {
			return
		}
		o.starved.Store(false)
	}
	switch err := f.transmit(kindItems, o.buffer); {
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		o.timer.Reset(retryPause)
		return
	case err != nil:
		f.fail(failed(err), true)
		return
	}
	o.published(len(o.buffer))
	if o.buffer = o.buffer[:0]; cap(o.buffer) > maxIdle {
		o.buffer = nil
	}
}

// Flush sends what is gathered.
func (f *Flow) Flush(ctx context.Context) error {
	if err := f.lock(ctx); err != nil {
		return err
	}
	defer f.unlock()
	return f.sendGathered(ctx)
}
