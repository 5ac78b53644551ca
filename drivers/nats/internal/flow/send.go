package flow

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tandemipc/tandem/ipc"
)

// Small items travel together. An item is sent at once if the flow has sent nothing for
// [gatherTime]. Otherwise it is gathered. What is gathered is sent when it has become large, when
// the flow is flushed, ends, or its own side waits for an item of the other, and otherwise soon
// after the flow has sent nothing for a while.

// out is what a flow sends.
type out struct {
	place chan struct{} // the lock, which guards what is below, up to granted

	buffer  []byte      // a frame with the items that are gathered; empty if there are none
	sent    int64       // what the frames count for that were sent
	last    time.Time   // when the last one was sent
	frames  uint64      // that were sent
	closed  atomic.Bool // nothing more is sent
	cut     error       // why an item was sent in part only; or nil
	claimed []byte      // what is claimed, nil if nothing is
	own     []byte      // memory for that

	seen  uint64        // frames when the timer was set last
	pause time.Duration // for which it was set

	granted atomic.Int64 // bytes of frames that the peer takes in all
	starved atomic.Bool  // something is gathered that the peer does not take yet
	waiting atomic.Bool  // who has the lock waits for the window
	refused atomic.Bool  // the peer takes no further items
	wake    chan struct{}
	timer   *time.Timer // flushes what is gathered
}

// gatherTime is for how long a flow must not have sent anything for the next item to be sent at once.
const gatherTime = 50 * time.Microsecond

func (o *out) init(f *Flow) {
	o.place = make(chan struct{}, 1)
	o.wake = make(chan struct{}, 1)
	o.timer = time.AfterFunc(time.Hour, f.flushSoon)
	o.timer.Stop()
}

// widen notes what the peer takes in all.
func (o *out) widen(granted int64) {
	o.granted.Store(granted)
	signal(o.wake)
	// SYNC: pairs with Flow.flushLocked, which stores starved and then loads granted.
	if o.starved.CompareAndSwap(true, false) {
		o.timer.Reset(0)
	}
}

// lock takes the lock of those who send.
func (f *Flow) lock(ctx context.Context) error {
	select {
	case f.out.place <- struct{}{}:
		return nil
	default:
	}
	select {
	case f.out.place <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-f.done:
		return f.sendError()
	}
}

func (f *Flow) tryLock() bool {
	select {
	case f.out.place <- struct{}{}:
		return true
	default:
		return false
	}
}

func (f *Flow) unlock() { <-f.out.place }

// Send sends one item, or gathers it to send it soon with others. It keeps nothing of item. It waits
// while the peer has as many bytes as it takes, until ctx or the flow ends. It returns io.EOF when
// the peer takes no further items.
func (f *Flow) Send(ctx context.Context, item []byte) error {
	if err := f.lock(ctx); err != nil {
		return err
	}
	defer f.unlock()
	return f.send(ctx, item, 0)
}

// SendAttached is Send for an item that has more in it than what the user of the stream has sent, as the peer learns by
// [Flow.Attached].
func (f *Flow) SendAttached(ctx context.Context, item []byte) error {
	if err := f.lock(ctx); err != nil {
		return err
	}
	defer f.unlock()
	return f.send(ctx, item, attached)
}

// send is Send with the lock.
func (f *Flow) send(ctx context.Context, item []byte, as flags) error {
	o := &f.out
	if err := f.sendable(); err != nil {
		return err
	}
	span, most := itemHeader+len(item), f.frameSize()
	if header+span > most {
		return f.sendLarge(ctx, item, as)
	}
	if len(o.buffer)+span > most {
		if err := f.sendGathered(ctx); err != nil {
			return err
		}
	}
	first := len(o.buffer) == 0
	if first {
		o.buffer = f.frame(o.buffer)
	}
	before := len(o.buffer)
	o.buffer = appendItem(o.buffer, item, as)
	if first && time.Since(o.last) < gatherTime {
		f.flushLater()
		return nil
	}
	if !first && len(o.buffer) < most {
		return nil
	}
	err := f.sendGathered(ctx)
	if err != nil {
		f.forgetFrom(before)
	}
	return err
}

// frame returns b as an empty frame.
func (f *Flow) frame(b []byte) []byte { return append(b[:0], make([]byte, header)...) }

// frameSize is the size of the largest frame with items.
func (f *Flow) frameSize() int { return int(min(Frame, f.port.bus.MaxPayload())) }

// forgetFrom takes what was gathered last back, which could not be sent.
func (f *Flow) forgetFrom(n int) {
	o := &f.out
	if len(o.buffer) > 0 {
		if o.buffer = o.buffer[:n]; n == header {
			o.buffer = o.buffer[:0]
		}
	}
}

// sendable returns nil while items may be sent. The lock is held.
func (f *Flow) sendable() error {
	select {
	case <-f.done:
		return f.sendError()
	default:
	}
	switch {
	case f.out.closed.Load():
		return errSendClosed
	case f.out.refused.Load():
		return io.EOF
	}
	return nil
}

// sendError is what a sender gets of a flow that is over. That this side has closed its sending counts before that the peer has ended
// the flow, whichever came first.
func (f *Flow) sendError() error {
	err := f.Err()
	if byPeer(err) && f.out.closed.Load() || err == io.EOF && f.accepted { // this side has ended it
		return errSendClosed
	}
	return err
}

// byPeer reports whether a flow that is over because of err was ended by the peer.
func byPeer(err error) bool {
	var e *ipc.Error
	return err == io.EOF || errors.As(err, &e) && e.Remote()
}

// sendGathered sends what is gathered, when the peer takes it.
func (f *Flow) sendGathered(ctx context.Context) error {
	o := &f.out
	if len(o.buffer) == 0 {
		return nil
	}
	if err := f.awaitRoom(ctx, cost(len(o.buffer))); err != nil {
		return err
	}
	if err := f.publish(ctx, kindItems, o.buffer); err != nil {
		return err
	}
	o.buffer = o.buffer[:0]
	return nil
}

// awaitRoom waits until the peer takes n bytes more than were sent. The lock is held.
func (f *Flow) awaitRoom(ctx context.Context, n int64) error {
	o := &f.out
	if o.granted.Load()-o.sent >= n {
		return f.sendable()
	}
	o.waiting.Store(true)
	defer func() {
		if o.waiting.Store(false); len(o.buffer) > 0 {
			f.flushLater()
		}
	}()
	for o.granted.Load()-o.sent < n {
		if err := f.sendable(); err != nil {
			return err
		}
		select {
		case <-o.wake:
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.sendable()
}

// publish sends a frame that counts in windows.
func (f *Flow) publish(ctx context.Context, kind byte, b []byte) error {
	if err := f.retry(ctx, kind, b); err != nil {
		return err
	}
	f.out.published(len(b))
	return nil
}

// published counts a frame of n bytes that was sent.
func (o *out) published(n int) {
	o.sent += cost(n)
	o.frames++
	o.last = time.Now()
}

// retryPause is how long to wait while nats.go takes nothing, since the connection is away.
const retryPause = 10 * time.Millisecond

// retry sends a frame, and waits while the connection is away and nats.go keeps nothing more for
// its return. Any other failure ends the flow.
func (f *Flow) retry(ctx context.Context, kind byte, b []byte) error {
	for {
		err := f.transmit(kind, b)
		switch {
		case err == nil:
			return nil
		case err == errMute:
			return f.sendError()
		case !errors.Is(err, nats.ErrReconnectBufExceeded):
			err = failed(err)
			f.fail(err, true)
			return err
		}
		pause := time.NewTimer(retryPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-f.done:
			pause.Stop()
			if kind != kindEnd {
				return f.sendError()
			}
			// It is over because this ends it.
			select {
			case <-time.After(retryPause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// sendLarge sends an item that is too large to be gathered, in pieces.
func (f *Flow) sendLarge(ctx context.Context, item []byte, as flags) error {
	if most := f.port.config.MaxItem; len(item) > most {
		return &ipc.SizeError{Size: len(item), Limit: most}
	}
	if err := f.sendGathered(ctx); err != nil {
		return err
	}
	o := &f.out
	for begun := false; ; begun = true {
		n := min(len(item), f.frameSize()-header-itemHeader)
		err := f.awaitRoom(ctx, cost(header+itemHeader+n))
		if err == nil {
			part := as
			if n < len(item) {
				part |= piece
			}
			o.buffer = appendItem(f.frame(o.buffer), item[:n], part)
			err = f.publish(ctx, kindItems, o.buffer)
			o.buffer = o.buffer[:0]
		}
		if err != nil {
			if begun {
				f.cutShort(err)
			}
			return err
		}
		if item = item[n:]; len(item) == 0 {
			return nil
		}
	}
}

// cutShort gives the flow up, as an item was sent in part: nothing can follow it.
func (f *Flow) cutShort(err error) {
	if !f.out.refused.Load() && !byPeer(err) {
		f.out.cut = err
		f.out.closed.Store(true)
		f.abort(err)
	}
}

// Note sends a note, which the peer gets in its place between the items.
func (f *Flow) Note(ctx context.Context, note []byte) error {
	if err := f.lock(ctx); err != nil {
		return err
	}
	defer f.unlock()
	if n := header + len(note); n > f.frameSize() {
		return &ipc.SizeError{Size: len(note), Limit: f.frameSize() - header}
	}
	if err := f.sendable(); err != nil {
		return err
	}
	if err := f.sendGathered(ctx); err != nil {
		return err
	}
	if err := f.awaitRoom(ctx, cost(header+len(note))); err != nil {
		return err
	}
	return f.publish(ctx, kindNote, append(make([]byte, header), note...))
}

// CloseSend says that there will be no further item, after those that were sent.
func (f *Flow) CloseSend(ctx context.Context) error {
	err := f.lock(ctx)
	switch {
	case err == nil:
		defer f.unlock()
		err = f.closeSend(ctx)
	case ctx.Err() == nil:
		err = nil // it is over
	}
	if err != nil && !byPeer(err) { // a peer that has ended the flow wants no more
		return err
	}
	f.out.closed.Store(true)
	return nil
}

// closeSend is CloseSend with the lock, but that it does not note that nothing more is sent.
func (f *Flow) closeSend(ctx context.Context) error {
	if f.sendable() != nil {
		return nil
	}
	if err := f.Opened(ctx); err != nil {
		return err
	}
	if err := f.sendGathered(ctx); err != nil {
		return err
	}
	return f.retry(ctx, kindSent, make([]byte, header))
}
