package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/retry"
)

// Stream is one end of a stream of items in both directions. It is an [ipc.Stream].
//
//	stream.go          how a stream opens and ends
//	stream_send.go     items are gathered, and sent when the peer takes them
//	stream_flush.go    gathered items are sent that nobody else sends soon
//	stream_receive.go  items that have come and are not read yet; the stream's window
//	stream_frames.go   what becomes of the frames of streams
//	stream_serve.go    the side of the handler
//
// The two ends are alike, but for what they may end. The handler's side ends the whole
// stream, when the handler has returned. The side that has opened it can give it up.
type Stream struct {
	session *Session
	tx      uint64
	info    *ipc.MethodInfo // of the method, on the side that has opened the stream
	late    error           // the error of the deadline of ctx, on the same side
	ctx     context.Context // of the whole stream: what it was opened with, or the handler's
	from    *requestContext // of the handler that has opened the stream, or nil
	handler *requestContext // of the handler that serves it, or nil on the other side

	in  streamIn
	out streamOut

	mu     sync.Mutex  // guards the following, and what in and out say
	opened bool        // the peer knows of it
	early  bool        // it was given up before that
	over   bool        // in both directions
	err    error       // why it is over: io.EOF if the handler has returned without an error
	stop   func()      // frees what watches ctx; nil if nothing does
	onEnd  func(error) // called when it is over, or nil
}

// streams are those of one session.
type streams struct {
	places sendWindow // for streams that we open
	budget streamBudget
	flush  streamFlusher

	mu     sync.Mutex
	opened uint64             // how many we have opened
	own    map[uint64]*Stream // that we have opened; nil are those that were given up
	peers  map[uint64]*Stream // whose handlers have not returned
	ending int                // ends of such streams that are being sent
	newest uint64             // the greatest tx that the peer has opened a stream with
	ended  error              // why we open no more; nil while we may
	over   bool               // the session has ended

	// reading counts goroutines that wait, and may read the link.
	reading atomic.Int64
	recent  *Stream // of the last frame; the reader's
}

// firstStream is the tx of the first stream of a side, but for the side's bit. Calls and
// streams have their txs in different tables.
const firstStream = 2

// add gives st its tx, as one that we open.
func (t *streams) add(st *Stream, side uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended != nil {
		return t.ended
	}
	t.opened++
	st.tx = t.opened*firstStream | side
	if t.own == nil {
		t.own = make(map[uint64]*Stream)
	}
	t.own[st.tx] = st
	return nil
}

// pending counts the streams that we have opened and that go on.
func (t *streams) pending() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, st := range t.own {
		if st != nil {
			n++
		}
	}
	return n
}

// failStreams ends all streams, and those that are opened later, with err.
func (s *Session) failStreams(err error) {
	t := &s.streams
	t.mu.Lock()
	t.ended, t.over = err, true
	all := make([]*Stream, 0, len(t.own)+len(t.peers))
	for _, st := range t.own {
		if st != nil {
			all = append(all, st)
		}
	}
	for _, st := range t.peers {
		all = append(all, st)
	}
	t.own, t.peers = nil, nil
	t.mu.Unlock()
	for _, st := range all {
		st.finish(err, false)
		if st.handler != nil {
			st.handler.cancel(drivers.ReasonGivenUp)
		}
	}
}

// failOwnStreams ends the streams that we have opened, and those that we would open later.
func (s *Session) failOwnStreams(err error) {
	t := &s.streams
	t.mu.Lock()
	t.ended = err
	var own []*Stream
	for _, st := range t.own {
		if st != nil {
			own = append(own, st)
		}
	}
	t.mu.Unlock()
	for _, st := range own {
		st.abandon(err)
	}
}

// OpenStream implements [ipc.StreamCaller].
func (s *Session) OpenStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	return s.openStream(ctx, inv, o, nil)
}

// openStream is OpenStream for the handler whose context is from, or nil.
func (s *Session) openStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening, from *requestContext) (ipc.Stream, error) {
	stop, late := func() {}, error(context.DeadlineExceeded)
	if inv.Timeout > 0 {
		ours := TimedOut(inv.Method.Name, inv.Timeout)
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > inv.Timeout {
			late = ours
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, inv.Timeout, ours)
		stop = cancel
	}
	st, err := s.open(ctx, inv, o, from, late)
	if err != nil {
		if ctx.Err() != nil {
			err = endOf(ctx)
		}
		stop()
		return nil, err
	}
	if ctx.Done() != nil {
		unwatch := context.AfterFunc(ctx, func() { st.abandon(endOf(ctx)) })
		st.watched(func() { unwatch(); stop() })
	}
	return st, nil
}

// watched notes how to free what watches the stream's context.
func (st *Stream) watched(stop func()) {
	st.mu.Lock()
	over := st.over
	if !over {
		st.stop = stop
	}
	st.mu.Unlock()
	if over {
		stop()
	}
}

// endOf returns why a stream ends whose context has ended: its own timeout ran out, or what
// the context says.
func endOf(ctx context.Context) error {
	var timeout *ipc.TimeoutError
	if cause := context.Cause(ctx); errors.As(cause, &timeout) {
		return cause
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return context.DeadlineExceeded // its timer has not fired yet
}

// open opens a stream, and sends its first item if there is one. late is the error of a stream
// whose context has a deadline that has passed.
func (s *Session) open(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening, from *requestContext, late error) (*Stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var remaining time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		if remaining = time.Until(deadline); remaining <= 0 {
			return nil, context.DeadlineExceeded
		}
	}
	t := &s.streams
	if err := t.places.reserve(ctx, s.lifetime.done, 1); err != nil {
		return nil, s.notOpened(ctx, err)
	}
	st := &Stream{session: s, info: &inv.Method, ctx: ctx, from: from, late: late}
	st.init(drivers.InitialStreamWindow)
	if err := t.add(st, s.config.Side); err != nil {
		t.places.cancel(1)
		return nil, retry.NotSent(s.update(err))
	}
	opening := drivers.Opening{Window: st.in.limit}
	var first []byte // that is sent with the opening
	if span := drivers.ItemSpan(len(o.First)); o.First != nil && span <= min(drivers.InitialStreamWindow, s.maxPayload-drivers.OpeningHeader) {
		first, opening.Sent, st.out.sent = o.First, o.Only, int64(span)
	}
	b := gatherBuffers.Get().(*gatherBuffer)
	b.b = drivers.AppendOpening(b.b[:0], &opening)
	if first != nil {
		b.b = drivers.AppendItem(b.b, first)
	}
	f := &st.out.frame
	*f = drivers.Frame{Kind: drivers.KindOpen, Tx: st.tx, Method: inv.Method.ID, Remaining: remaining, Payload: b.b}
	err := s.link.Send(ctx, f)
	*f = drivers.Frame{Kind: drivers.KindItems, Tx: st.tx}
	gatherBuffers.Put(b)
	if err != nil {
		t.mu.Lock()
		_, known := t.own[st.tx]
		delete(t.own, st.tx)
		t.mu.Unlock()
		if known {
			t.places.cancel(1)
		}
		return nil, s.notOpened(ctx, err)
	}
	st.out.closed = opening.Sent
	if err := st.wasOpened(); err != nil {
		return nil, err
	}
	if o.First != nil && first == nil { // it is large
		if err = st.Send(ctx, o.First); err == nil && o.Only {
			err = st.CloseSend(ctx)
		}
		if err != nil && (ctx.Err() != nil || st.ended() == nil) { // otherwise Receive tells how it has ended
			st.abandon(err)
			return nil, err
		}
	}
	st.notify(o.OnEnd)
	return st, nil
}

// wasOpened notes that the peer knows of the stream. If that was given up before it tells the
// peer so, and returns why.
func (st *Stream) wasOpened() error {
	st.mu.Lock()
	st.opened = true
	early := st.early
	st.mu.Unlock()
	if !early {
		return nil
	}
	st.sendGivenUp(drivers.EndGivenUp)
	return st.ended()
}

// notify makes the stream call onEnd when it is over.
func (st *Stream) notify(onEnd func(error)) {
	if onEnd == nil {
		return
	}
	st.mu.Lock()
	over, err := st.over, st.err
	st.onEnd = onEnd
	st.mu.Unlock()
	if over {
		onEnd(withoutEOF(err))
	}
}

// withoutEOF returns nil for the end of a stream whose handler has not failed.
func withoutEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// notOpened is the error of a stream that could not be opened because of err.
func (s *Session) notOpened(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return retry.NotSent(s.whyUnsent(ctx, err))
}

func (st *Stream) init(window int64) {
	st.in.limit, st.in.granted = window, window
	st.out.lock.init()
	st.out.granted.Store(drivers.InitialStreamWindow)
	st.out.frame = drivers.Frame{Kind: drivers.KindItems, Tx: st.tx}
}

// finish ends the stream in both directions, with err. Only the first call counts. What has
// come can still be read, unless drop is set.
func (st *Stream) finish(err error, drop bool) bool {
	st.mu.Lock()
	if st.over {
		st.mu.Unlock()
		return false
	}
	st.over, st.err = true, err
	st.out.gone.Store(true)
	if drop {
		st.in.drop(st.session)
	}
	st.session.streams.budget.put(st.in.limit - drivers.InitialStreamWindow)
	st.in.waiter.complete()
	st.out.waiter.complete()
	stop, onEnd := st.stop, st.onEnd
	st.stop = nil
	st.mu.Unlock()
	if stop != nil {
		stop()
	}
	if onEnd != nil {
		onEnd(withoutEOF(err))
	}
	return true
}

// errClosed is what the methods of a stream return after Close.
var errClosed = fmt.Errorf("%w: the stream was closed", ipc.ErrClosed)

// Close implements [ipc.Stream].
func (st *Stream) Close() { st.abandon(errClosed) }

// abandon gives the stream up because of err, if it is not over. It is of the side that has
// opened the stream; the handler's side ends the stream by returning.
func (st *Stream) abandon(err error) {
	if st.handler != nil || !st.finish(err, true) {
		return
	}
	s := st.session
	s.streams.mu.Lock()
	if _, ok := s.streams.own[st.tx]; ok {
		s.streams.own[st.tx] = nil // until the handler has returned
	}
	s.streams.mu.Unlock()
	st.mu.Lock()
	st.early = !st.opened
	early := st.early
	st.mu.Unlock()
	if early {
		return // who opens it tells the peer
	}
	reason := drivers.EndGivenUp
	var timeout *ipc.TimeoutError
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) {
		reason = drivers.EndDeadline
	}
	st.sendGivenUp(reason)
}

// sendGivenUp tells the peer that the stream was given up, whenever there is room for that: the
// handler may wait for nothing else. It does not block.
func (st *Stream) sendGivenUp(reason byte) {
	s := st.session
	go func() {
		_ = s.link.Send(s.baseCtx, &drivers.Frame{Kind: drivers.KindEnd, Tx: st.tx, Payload: []byte{reason}}) // or the link has ended
	}()
}

// ended returns why the stream is over, or nil. That is io.EOF if the handler has returned.
func (st *Stream) ended() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.endedLocked()
}

func (st *Stream) endedLocked() error {
	switch {
	case !st.over:
		return nil
	case st.err == io.EOF, st.handler != nil:
		return st.err
	}
	return st.session.update(st.err)
}
