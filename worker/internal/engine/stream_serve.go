package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// accept takes a frame that opens a stream, and starts its handler. It is called with the
// reader state.
func (s *Session) accept(f *drivers.Frame) error {
	o, err := drivers.ParseOpening(f.Payload)
	if err != nil {
		return err
	}
	if f.Tx&1 == s.config.Side || f.Tx < firstStream {
		return fmt.Errorf("%w: a stream is opened with the tx %#x, which is not the peer's", ipc.ErrProtocol, f.Tx)
	}
	st := &Stream{session: s, tx: f.Tx, handler: s.newContext()}
	st.handler.init(s, f.Tx, f.Remaining)
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
		return nil
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
	}
	t.mu.Unlock()
	if err != nil {
		return err
	}
	h := s.config.Handlers.find(f.Method)
	var refusal error
	switch {
	case h == nil || h.Stream == nil:
		refusal = s.config.Handlers.unknown(f.Method)
	case !s.inFlight.enter():
		refusal = errDraining
	}
	if refusal != nil {
		s.handling.Go(func() { st.conclude(refusal, func(err error) []byte { return ipc.AppendError(nil, err) }) })
		return nil
	}
	s.handling.Go(func() {
		defer s.inFlight.exit()
		st.serve(h)
	})
	return nil
}

// serve runs the handler of a stream, and ends the stream.
func (st *Stream) serve(h *Handler) {
	if h.places != nil {
		select {
		case h.places <- struct{}{}:
			defer func() { <-h.places }()
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
		message := "called runtime.Goexit"
		if p := recover(); p != nil {
			message = fmt.Sprintf("panicked: %v", p)
		}
		st.returned(&ipc.Error{
			Code: ipc.CodeInternal, Message: fmt.Sprintf("the handler of %q %s", h.Info.Name, message), Stack: string(debug.Stack()),
		})
	}()
	err := h.Stream(st.ctx, st)
	returned = true
	st.returned(err)
}

// returned ends a stream whose handler has returned err. What the handler has sent arrives
// before that.
func (st *Stream) returned(err error) { st.conclude(err, st.handler.failureOf) }

// conclude is returned for an error that failure encodes.
func (st *Stream) conclude(err error, failure func(error) []byte) {
	o, s := &st.out, st.session
	locked := o.lock.lock(st.ctx, nil, nil) == nil
	if locked {
		if o.buffer != nil && o.granted.Load()-o.sent < int64(len(o.buffer.b)) {
			st.TakeNoMore() // the peer may not read before it has sent all
		}
		if unsent := st.sendGathered(st.ctx); unsent != nil && err == nil {
			err = unsent // the peer must not take that for all
		}
		o.closed = true
	} else if err == nil {
		err = st.ctx.Err()
	}
	st.finish(io.EOF, true)
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
	s.streams.ending++
	s.streams.mu.Unlock()
	st.sendEnd(end)
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

// Codec returns the codec of the link.
func (st *Stream) Codec() ipc.Codec { return st.session.config.Codec }

// sendEnd sends the last frame of a stream. Nothing but the end of the link can keep it from
// arriving.
func (st *Stream) sendEnd(payload []byte) {
	s := st.session
	err := s.link.Send(s.baseCtx, &drivers.Frame{Kind: drivers.KindEnd, Tx: st.tx, Payload: payload})
	var tooLarge *ipc.SizeError
	if errors.As(err, &tooLarge) {
		e := ipc.Errorf(ipc.CodeResourceExhausted, "the error of the handler cannot be sent: %w", err)
		err = s.link.Send(s.baseCtx, &drivers.Frame{Kind: drivers.KindEnd, Tx: st.tx, Payload: ipc.AppendError([]byte{drivers.EndFailed}, e)})
	}
	if err != nil && s.baseCtx.Err() == nil {
		s.unsent(err)
	}
}
