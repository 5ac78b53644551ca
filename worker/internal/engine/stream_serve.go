package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// accept takes a frame that opens a stream. It returns the stream, and its handler or why it
// gets none, and no stream if nobody waits for it any more. It is called with the reader
// state.
func (s *Session) accept(f *drivers.Frame) (st *Stream, h *Handler, refusal, err error) {
	o, err := drivers.ParseOpening(f.Payload)
	if err != nil {
		return nil, nil, nil, err
	}
	if f.Tx&1 == s.config.Side || f.Tx < firstStream {
		return nil, nil, nil, fmt.Errorf("%w: a stream is opened with the tx %#x, which is not the peer's", ipc.ErrProtocol, f.Tx)
	}
	st = &Stream{session: s, tx: f.Tx, handler: s.newContext()}
	st.handler.init(s, f.Tx, f.Remaining)
	if f.Meta != nil {
		st.meta = int64(f.Meta.Size())
		st.handler.exchange.Store(&exchange{request: f.Meta.Header()})
	}
	st.handler.fixDeadline()
	st.ctx, st.opened = st.handler, true
	st.init(drivers.InitialStreamWindow)
	st.out.granted.Store(o.Window)
	if len(o.Items) > 0 {
		items := drivers.Frame{Payload: o.Items}
		st.in.received = int64(len(o.Items))
		st.in.put(&items, st.in.received)
	}
	st.in.ended = o.Sent
	t := &s.streams
	if t.recent != nil && t.recent.tx == f.Tx {
		t.recent = nil
	}
	t.mu.Lock()
	switch {
	case t.over:
		t.mu.Unlock()
		return nil, nil, nil, nil
	// An end that the peer has got may still count here, so ends have a limit of their own.
	case t.ending >= drivers.MaxStreams:
		err = fmt.Errorf("%w: the peer opens streams, and does not read the ends of %d others", ipc.ErrProtocol, t.ending)
	case len(t.peers) >= drivers.MaxStreams:
		err = fmt.Errorf("%w: the peer has opened %d streams that have not ended, and may open no more", ipc.ErrProtocol, len(t.peers))
	case f.Tx <= t.newest && t.peers[f.Tx] != nil:
		err = fmt.Errorf("%w: a stream (%#x) is opened twice", ipc.ErrProtocol, f.Tx)
	default:
		if t.peers == nil {
			t.peers = make(map[uint64]*Stream)
		}
		t.peers[f.Tx] = st
		t.newest = max(t.newest, f.Tx)
		t.meta += st.meta
	}
	tooMuch := st.meta > 0 && t.meta > int64(s.config.Window)
	t.mu.Unlock()
	if err != nil {
		return nil, nil, nil, err
	}
	h = s.config.Handlers.find(f.Method)
	switch {
	case tooMuch:
		refusal = ipc.Errorf(ipc.CodeResourceExhausted, "the metadata of all open streams counts for more than %d bytes", s.config.Window)
		st.handler.exchange.Store(nil)
	case h == nil || h.Stream == nil:
		refusal = s.config.Handlers.unknown(f.Method)
	case !s.inFlight.enter():
		refusal = errDraining
	}
	return st, h, refusal, nil
}

// serveStream serves the stream that f opens, in a goroutine of its own. It is called with the
// reader state.
func (s *Session) serveStream(f *drivers.Frame) error {
	st, h, refusal, err := s.accept(f)
	if st != nil {
		s.startStream(st, h, refusal)
	}
	return err
}

// startStream runs the handler of a stream in a goroutine of its own, or sends the refusal.
func (s *Session) startStream(st *Stream, h *Handler, refusal error) {
	if refusal != nil {
		s.handling.Go(func() { st.conclude(refusal, func(err error) []byte { return ipc.AppendError(nil, err) }) })
		return
	}
	s.handling.Go(func() {
		defer s.inFlight.exit()
		start := time.Now()
		st.serve(h)
		h.took(time.Since(start) - st.out.sending)
	})
}

// serveInBackground serves the stream that f opens, in the background reader's own goroutine if
// its handler has been quick lately. Such a handler that waits for its stream takes the reader
// state over. It returns false if the reader state was taken over meanwhile.
func (s *Session) serveInBackground(b *backgroundReader, f *drivers.Frame) bool {
	b.flush(s)
	st, h, refusal, err := s.accept(f)
	f.Payload = nil
	switch {
	case err != nil:
		s.Fail(err)
		return true
	case st == nil:
		return true
	case refusal != nil || !h.quick():
		s.startStream(st, h, refusal)
		return true
	}
	r := &b.request
	r.session, r.handler, r.ctx, r.stream, r.background = s, h, st.handler, true, b
	timed := b.beginRun(s)
	b.requestRead(s) // nobody needs the frame any more
	var start time.Time
	if timed {
		start = time.Now()
	}
	returned := false
	defer func() {
		s.inFlight.exit()
		if !returned { // by runtime.Goexit
			b.finishRun(s)
		}
	}()
	st.serve(h)
	returned = true
	if timed {
		h.took(time.Since(start) - st.out.sending)
	}
	if s.reader.state.CompareAndSwap(b.word, b.word+readerPolling-readerHandling) {
		r.clear()
		return true
	}
	b.finishRun(s)
	r.clear()
	return false
}

// serve runs the handler of a stream, and ends the stream.
func (st *Stream) serve(h *Handler) {
	if h.places != nil {
		select {
		case h.places <- struct{}{}:
			defer func() { <-h.places }()
			if err := st.ctx.Err(); err != nil { // it has waited for its turn
				st.returned(err)
				return
			}
		case <-st.ctx.Done():
			st.returned(st.ctx.Err())
			return
		}
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		err := h.crashed(recover())
		st.leaveClaim()
		st.returned(err)
	}()
	var err error
	if chain := st.session.config.Chain; chain.HandlesStreams() {
		err = st.intercept(h)
	} else {
		err = h.Stream(st.ctx, st, st)
	}
	returned = true
	st.returned(err)
}

// returned ends a stream whose handler has returned err. What the handler has sent arrives
// before that.
func (st *Stream) returned(err error) { st.conclude(err, st.handler.failureOf) }

// conclude is returned for an error that failure encodes.
func (st *Stream) conclude(err error, failure func(error) []byte) {
	o, s := &st.out, st.session
	if o.claim.b != nil { // the handler has left it, and the lock with it
		_ = st.commit(st.ctx, -1)
		o.lock.unlock()
	}
	locked := o.lock.lock(st.ctx, nil, nil) == nil
	if locked {
		if o.buffer != nil && o.granted.Load()-o.sent < int64(len(o.buffer.b)) {
			st.TakeNoMore() // the peer may not read before it has sent all
		}
		unsent := st.sendGathered(st.ctx)
		if unsent == nil {
			unsent = o.cut
		}
		if err == nil {
			err = unsent // the peer must not take that for all
		}
		o.closed = true
	} else if err == nil {
		err = st.ctx.Err()
	}
	st.finish(io.EOF, true)
	st.dropUnread(io.EOF) // for the link may have ended before
	st.Attachments().Release()
	if !locked { // a goroutine of the handler is sending, and finds the stream to be over
		_ = o.lock.lock(context.Background(), nil, nil)
		o.closed = true
	}
	st.freeGathered()
	o.lock.unlock()
	end := []byte{drivers.EndReturned}
	if err != nil {
		end = append([]byte{drivers.EndFailed}, failure(err)...)
	}
	s.streams.mu.Lock()
	delete(s.streams.peers, st.tx)
	s.streams.meta -= st.meta
	s.streams.ending++
	s.streams.mu.Unlock()
	begun := monotonic()
	st.sendEnd(end, st.endMeta())
	o.sending += monotonic() - begun
	s.streams.mu.Lock()
	s.streams.ending--
	s.streams.mu.Unlock()
	st.handler.cancel(drivers.ReasonGivenUp)
}

// TakeNoMore says that the handler takes no further items. What the peer sends is dropped, and
// its Send returns io.EOF, so that it comes to read what the handler sends.
func (st *Stream) TakeNoMore() {
	st.mu.Lock()
	known := st.over || st.in.ended || st.in.deaf
	st.in.deaf = true
	st.in.drop(st.session)
	st.mu.Unlock()
	if !known {
		f := &drivers.Frame{Kind: drivers.KindEnd, Tx: st.tx, Payload: []byte{drivers.EndTaken}}
		_ = st.session.link.Send(st.ctx, f) // or the stream has ended
	}
}

// Draining is closed when the session takes no further requests and waits for the handlers that run.
func (st *Stream) Draining() <-chan struct{} { return st.session.lifetime.draining }

// Codec returns the codec of the link.
func (st *Stream) Codec() ipc.Codec { return st.session.config.Codec }

// sendEnd sends the last frame of a stream. Nothing but the end of the link can keep it from
// arriving.
func (st *Stream) sendEnd(payload []byte, meta *drivers.Metadata) {
	s := st.session
	err := s.link.Send(s.baseCtx, &drivers.Frame{Kind: drivers.KindEnd, Tx: st.tx, Payload: payload, Meta: meta})
	var tooLarge *ipc.SizeError
	if errors.As(err, &tooLarge) {
		e := ipc.Errorf(ipc.CodeResourceExhausted, "the error of the handler cannot be sent: %w", err)
		err = s.link.Send(s.baseCtx, &drivers.Frame{Kind: drivers.KindEnd, Tx: st.tx, Payload: ipc.AppendError([]byte{drivers.EndFailed}, e)})
	}
	if err != nil && s.baseCtx.Err() == nil {
		s.unsent(err)
	}
}
