package engine

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/chain"
)

// Small items travel together. An item is sent at once if the stream has sent nothing for
// [gatherTime]. Otherwise it is gathered. What is gathered is sent
//
//   - when it has become large, or many;
//   - when the stream is flushed, ends, or its own side waits for an item of the other;
//   - otherwise by the session's flusher, soon after the stream has sent nothing for a while.
//
// What is sent, the peer's window has room for. A large item is cut into pieces that fit.

// streamOut is what a stream sends.
type streamOut struct {
	lock briefLock // guards what is below, up to granted

	buffer *gatherBuffer // nil if nothing is gathered
	count  int           // items that are gathered
	sent   int64         // bytes of items so far
	most   int64         // that the peer took at once, as far as seen
	last   time.Duration // when the last frame was sent, by monotonic
	frames uint64        // that were sent
	closed bool          // nothing more is sent
	cut    error         // why an item was sent in part only, which ends the stream; or nil
	// sending is how long it took a handler's side to send the first frame and the last: what
	// that takes depends on whether the peer sleeps, and says nothing about the handler.
	sending time.Duration
	header  int           // fields of the header that were sent
	frame   drivers.Frame // that is sent; a link would make any other escape to the heap
	listed  bool          // the flusher looks after the stream
	claim   streamClaim
	seen    uint64 // frames when the flusher has looked last

	granted atomic.Int64 // bytes of items that the peer takes in all; the reader writes it
	starved atomic.Bool  // something is gathered that the peer does not take yet
	gone    atomic.Bool  // the stream is over, or
	refused atomic.Bool  // the handler on the other side takes no further items

	waiter waitPlace     // for granted to grow
	blocks atomic.Uint32 // windowOpen, or one of the others
}

// Whether a goroutine with the lock waits for the window. The flusher then looks no more until
// that goroutine goes on: a reader may be slow for hours.
const (
	windowOpen uint32 = iota
	windowAwaited
	windowUnwatched // the same, and the flusher has forgotten the stream
)

// gatherBuffer is memory for gathered items.
type gatherBuffer struct{ b []byte }

var gatherBuffers = sync.Pool{New: func() any { return &gatherBuffer{make([]byte, 0, drivers.InitialStreamWindow)} }}

const (
	gatherTime  = 20 * time.Microsecond
	gatherItems = 64
)

// Send implements [ipc.Stream].
func (st *Stream) Send(ctx context.Context, item []byte) error {
	o := &st.out
	if !o.lock.tryLock() {
		if err := o.lock.lock(ctx, st.ctx, nil); err != nil {
			return st.whyNot(ctx, err)
		}
	}
	err := st.send(ctx, item)
	o.lock.unlockSoon()
	return err
}

// send is Send with the lock.
func (st *Stream) send(ctx context.Context, item []byte) error {
	o, s := &st.out, st.session
	if o.closed || o.gone.Load() {
		return st.notSendable()
	}
	span := drivers.ItemSpan(len(item))
	if span > s.maxGathered {
		if err := st.sendGathered(ctx); err != nil {
			return err
		}
		return st.sendLarge(ctx, item)
	}
	if o.buffer == nil || len(o.buffer.b)+span > s.maxGathered {
		if err := st.makeRoom(ctx); err != nil {
			return err
		}
	}
	o.buffer.b = drivers.AppendItem(o.buffer.b, item)
	return st.added(ctx, span)
}

// makeRoom sends what is gathered, and begins to gather anew.
func (st *Stream) makeRoom(ctx context.Context) error {
	if err := st.sendGathered(ctx); err != nil {
		return err
	}
	if err := st.ended(); err != nil {
		return st.sendError(err)
	}
	b := gatherBuffers.Get().(*gatherBuffer)
	b.b = b.b[:0]
	st.out.buffer = b
	return nil
}

// added counts an item that was gathered and takes span, and sends what is gathered if it is
// time.
func (st *Stream) added(ctx context.Context, span int) error {
	o, s := &st.out, st.session
	switch o.count++; {
	case o.count == 1:
		if monotonic()-o.last < gatherTime {
			if !o.listed {
				o.listed, o.seen = true, o.frames
				s.streams.flush.add(s, st)
			}
			return nil
		}
	case o.count < gatherItems && len(o.buffer.b)+drivers.ItemHeader < s.maxGathered:
		return nil
	}
	err := st.sendGathered(ctx)
	if err != nil {
		st.forgetLast(span)
	}
	return err
}

// forgetLast takes the last gathered item back, which takes span and could not be sent.
func (st *Stream) forgetLast(span int) {
	o := &st.out
	if o.buffer == nil {
		return
	}
	o.buffer.b = o.buffer.b[:len(o.buffer.b)-span]
	if o.count--; o.count == 0 {
		st.freeGathered()
	}
}

func (st *Stream) freeGathered() {
	o := &st.out
	if o.buffer != nil {
		gatherBuffers.Put(o.buffer)
		o.buffer, o.count = nil, 0
	}
	if o.starved.Load() {
		o.starved.Store(false)
	}
}

// notSendable is the error of an item after the end of sending. That this side has closed its
// sending counts before that the handler has returned, whichever comes first. The lock is held.
func (st *Stream) notSendable() error {
	err := st.ended()
	switch {
	case st.out.closed && (err == nil || byHandler(err)):
		return errSendClosed
	case err != nil:
		return st.sendError(err)
	}
	return io.EOF // the handler takes no more
}

// sendError turns the end of a stream into what a sender gets: a peer that is not interested
// any more is no end of items.
func (st *Stream) sendError(err error) error {
	if err == io.EOF && st.handler != nil {
		return errSendClosed // by the handler that has returned
	}
	return err
}

var errSendClosed = ipc.Errorf(ipc.CodeFailedPrecondition, "tandem: the sending side of the stream was closed")

// byHandler reports whether a stream that is over because of err has ended since the handler on the
// other side has returned.
func byHandler(err error) bool {
	return err == io.EOF || chain.IsRemote(err)
}

// sendGathered sends what is gathered, when the peer takes it.
func (st *Stream) sendGathered(ctx context.Context) error {
	o := &st.out
	if o.buffer == nil {
		return nil
	}
	if n := int64(len(o.buffer.b)); o.granted.Load()-o.sent < n {
		if err := st.awaitWindow(ctx, n); err != nil {
			return err
		}
	}
	if err := st.transmit(ctx, 0, o.buffer.b); err != nil {
		return err
	}
	st.freeGathered()
	return nil
}

// transmit sends a frame with items, or a part of one as how says, for which the window has
// room.
func (st *Stream) transmit(ctx context.Context, how uint64, payload []byte) error {
	o, s := &st.out, st.session
	if err := st.ended(); err != nil {
		return st.sendError(err)
	}
	o.frame.Method, o.frame.Payload = how, payload
	first := st.handler != nil && o.frames == 0
	var begun time.Duration
	if first {
		st.addHeader()
		begun = monotonic()
	}
	c := sendContexts.Get().(*sendContext)
	err := s.link.Send(c.bindAll(ctx, [2]context.Context{st.ctx}, 0), &o.frame)
	c.release()
	sendContexts.Put(c)
	if first {
		o.sending += monotonic() - begun
	}
	cost := drivers.ItemsCost(&o.frame)
	o.frame.Payload = nil
	if err != nil {
		return st.whyNot(ctx, err)
	}
	st.transmitted(cost)
	return nil
}

// transmitted counts a frame that was sent and costs so much of the window.
func (st *Stream) transmitted(cost int64) {
	o := &st.out
	o.sent += cost
	if o.frames++; o.frame.Meta != nil {
		o.header = len(o.frame.Meta.Header())
		o.frame.Meta = nil
	}
	o.last = monotonic()
}

// sendLarge sends an item that is too large to be gathered.
func (st *Stream) sendLarge(ctx context.Context, item []byte) error {
	return st.sendAlone(ctx, item, nil, nil)
}

// sendAlone sends an item in frames of its own, with its attachments and what says that it has
// others in its bytes.
func (st *Stream) sendAlone(ctx context.Context, item, handles []byte, a *ipc.Attachments) error {
	o, s := &st.out, st.session
	if len(item) > s.maxPayload {
		return &ipc.SizeError{Size: len(item), Limit: s.maxPayload}
	}
	begun := false
	for {
		n, err := st.roomFor(ctx, len(item))
		if err != nil {
			st.cutShort(begun, err)
			return err
		}
		how := drivers.ItemPiece
		if n == len(item) {
			how = drivers.ItemWhole
			o.frame.Handles, o.frame.Attached = handles, a
		}
		err = st.transmit(ctx, how, item[:n])
		if handles != nil || a != nil {
			o.frame.Handles, o.frame.Attached = nil, nil
		}
		if err != nil {
			st.cutShort(begun, err)
			return err
		}
		if item = item[n:]; how == drivers.ItemWhole {
			return nil
		}
		begun = true
	}
}

// cutShort ends the stream if an item was sent in part: nothing can follow it.
func (st *Stream) cutShort(begun bool, err error) {
	if !begun || st.out.refused.Load() || byHandler(err) {
		return
	}
	st.out.closed, st.out.cut = true, err
	if st.handler == nil {
		st.abandon(err)
	} else {
		st.finish(err, true)
	}
}

// awaitWindow waits until the peer takes n bytes more than were sent.
func (st *Stream) awaitWindow(ctx context.Context, n int64) error {
	o := &st.out
	o.blocks.Store(windowAwaited)
	defer func() {
		if o.blocks.Swap(windowOpen) != windowUnwatched {
			return
		}
		if o.listed = o.buffer != nil; o.listed {
			st.session.streams.flush.add(st.session, st)
		}
	}()
	for o.granted.Load()-o.sent < n {
		err := st.wait(ctx, &o.waiter, func() bool { return o.gone.Load() || o.granted.Load()-o.sent >= n })
		switch {
		case err != nil:
			return st.whyNot(ctx, err)
		case o.gone.Load():
			return st.notSendable()
		}
	}
	o.most = max(o.most, o.granted.Load()-o.sent)
	return nil
}

// whyNot turns an error of waiting or sending into what the user gets.
func (st *Stream) whyNot(ctx context.Context, err error) error {
	if end := st.ended(); end != nil {
		return st.sendError(end)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case st.ctx.Err() != nil:
		if st.handler != nil && st.session.Failing() {
			// The link ends, and the context with it. Why that is, the stream is about to learn.
			select {
			case <-st.session.lifetime.done:
				if end := st.ended(); end != nil {
					return st.sendError(end)
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err := endOf(st.ctx)
		st.abandon(err) // if what watches ctx has not done it yet
		return err
	}
	return st.session.whyUnsent(ctx, err)
}

// Flush implements [ipc.Stream].
func (st *Stream) Flush(ctx context.Context) error {
	if err := st.out.lock.lock(ctx, st.ctx, nil); err != nil {
		return st.whyNot(ctx, err)
	}
	defer st.out.lock.unlock()
	if st.out.buffer == nil {
		return nil
	}
	return st.sendGathered(ctx)
}

// flushNow sends what is gathered if the peer takes it now and nobody else is sending.
func (st *Stream) flushNow(ctx context.Context) {
	o := &st.out
	if !o.lock.tryLock() {
		return
	}
	st.flushLocked(ctx)
	o.lock.unlock()
}

// flushLocked sends what is gathered if the peer takes it now. If it does not yet, the frame
// with which it does makes the flusher send.
func (st *Stream) flushLocked(ctx context.Context) {
	o := &st.out
	if o.buffer == nil {
		return
	}
	if n := int64(len(o.buffer.b)); o.granted.Load()-o.sent < n {
		// SYNC: pairs with Stream.widened, which adds to granted and then loads starved.
		o.starved.Store(true)
		if o.granted.Load()-o.sent < n {
			return
		}
	}
	_ = st.sendGathered(ctx) // if that fails the stream has ended, or will be flushed again
}

// CloseSend implements [ipc.Stream].
func (st *Stream) CloseSend(ctx context.Context) error {
	o := &st.out
	err := o.lock.lock(ctx, st.ctx, nil)
	if err != nil {
		err = st.whyNot(ctx, err)
	} else {
		defer o.lock.unlock()
		err = st.closeSend(ctx)
		o.closed = o.closed || err == nil || byHandler(err)
	}
	if byHandler(err) {
		return nil // a handler that has returned wants no more
	}
	return err
}

// closeSend is CloseSend with the lock, but that it does not note that nothing more is sent.
func (st *Stream) closeSend(ctx context.Context) error {
	if st.out.closed || st.out.gone.Load() {
		return nil
	}
	if err := st.sendGathered(ctx); err != nil {
		return err
	}
	if st.ended() != nil {
		return nil
	}
	c := sendContexts.Get().(*sendContext)
	c.frame = drivers.Frame{Kind: drivers.KindEnd, Tx: st.tx, Payload: endSent}
	err := st.session.link.Send(c.bindAll(ctx, [2]context.Context{st.ctx}, 0), &c.frame)
	c.release()
	sendContexts.Put(c)
	if err != nil {
		return st.whyNot(ctx, err)
	}
	return nil
}

var endSent = []byte{drivers.EndSent}
