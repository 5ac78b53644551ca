package engine

import (
	"fmt"
	"io"
	"slices"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// receiveStream deals with a frame of a stream. It is called with the reader state.
func (s *Session) receiveStream(f *drivers.Frame) error {
	if f.Kind == drivers.KindOpen {
		return s.serveStream(f)
	}
	st, err := s.findStream(f)
	if st == nil {
		return err
	}
	switch f.Kind {
	case drivers.KindItems:
		return st.receive(f)
	case drivers.KindWindow:
		n, err := drivers.ParseWindow(f.Payload)
		if err != nil {
			return err
		}
		return st.widened(n)
	}
	return st.receiveEnd(f)
}

// findStream finds the stream of a frame. It returns nil if that has ended.
func (s *Session) findStream(f *drivers.Frame) (*Stream, error) {
	t := &s.streams
	if t.recent != nil && t.recent.tx == f.Tx {
		return t.recent, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	known := f.Tx != 0
	if f.Tx&1 == s.config.Side {
		st, ok := t.own[f.Tx]
		if st != nil {
			t.recent = st
			return st, nil
		}
		if ok && f.Kind == drivers.KindEnd && len(f.Payload) > 0 && f.Payload[0] != drivers.EndSent && f.Payload[0] != drivers.EndTaken {
			delete(t.own, f.Tx) // the handler of a stream that we have given up
			t.places.refill(1)
		}
		known = known && f.Tx <= t.opened*firstStream|1
	} else {
		if st := t.peers[f.Tx]; st != nil {
			t.recent = st
			return st, nil
		}
		known = known && f.Tx <= t.newest
	}
	if !known {
		return nil, fmt.Errorf("%w: a frame of kind %v for a stream (%#x) that was never opened", ipc.ErrProtocol, f.Kind, f.Tx)
	}
	return nil, nil
}

// receive takes items that have come.
func (st *Stream) receive(f *drivers.Frame) error {
	cost := drivers.ItemsCost(f)
	if f.Method > drivers.ItemPiece || f.Method != drivers.ItemWhole && len(f.Payload) == 0 || f.Method == 0 && len(f.Payload)%drivers.ItemHeader != 0 {
		return fmt.Errorf("%w: malformed frame: items of %d bytes, of form %d", ipc.ErrProtocol, len(f.Payload), f.Method)
	}
	if (f.Attached != nil || f.Handles != nil) && f.Method != drivers.ItemWhole {
		return fmt.Errorf("%w: malformed frame: attachments that are not of one whole item", ipc.ErrProtocol)
	}
	mixed, err := st.take(f, cost)
	if mixed {
		_ = st.broken(fmt.Errorf("%w: malformed items: others follow the piece of one", ipc.ErrProtocol)) // it says so to others
	}
	return err
}

// take is receive for a frame that is well-formed. mixed says that items have come in the
// middle of one.
func (st *Stream) take(f *drivers.Frame, cost int64) (mixed bool, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	in := &st.in
	switch {
	case st.over:
		return false, nil // they have crossed its end
	case in.ended:
		return false, fmt.Errorf("%w: items of a stream (%#x) after their end", ipc.ErrProtocol, st.tx)
	case in.received+cost > in.granted:
		return false, fmt.Errorf("%w: %d bytes of items for a stream (%#x) that takes %d", ipc.ErrProtocol, cost, st.tx, in.granted-in.received)
	case in.headed && f.Meta != nil:
		return false, fmt.Errorf("%w: metadata with items of a stream (%#x) for the second time", ipc.ErrProtocol, st.tx)
	case in.deaf:
		in.received += cost
		return false, nil
	case in.begun && f.Method == 0:
		return true, nil
	}
	in.received += cost
	in.put(f, cost)
	if f.Meta != nil {
		in.headed, in.meta = true, f.Meta
	}
	in.waiter.complete()
	return false, nil
}

// widened takes a frame of KindWindow for n bytes.
func (st *Stream) widened(n int64) error {
	o := &st.out
	if n > drivers.MaxStreamWindow || o.granted.Load() > drivers.MaxStreamBytes-n {
		return fmt.Errorf("%w: a stream's window grows by %d bytes", ipc.ErrProtocol, n)
	}
	o.granted.Add(n)
	if o.starved.Load() && o.starved.CompareAndSwap(true, false) {
		st.session.streams.flush.add(st.session, st)
	}
	st.mu.Lock()
	o.waiter.complete()
	st.mu.Unlock()
	return nil
}

// receiveEnd takes a frame of KindEnd.
func (st *Stream) receiveEnd(f *drivers.Frame) error {
	if len(f.Payload) == 0 {
		return fmt.Errorf("%w: malformed frame: an end without a reason", ipc.ErrProtocol)
	}
	s := st.session
	code := f.Payload[0]
	switch {
	case code == drivers.EndSent:
		st.mu.Lock()
		cut := st.in.begun && !st.in.deaf
		st.in.ended = true
		st.in.waiter.complete()
		st.mu.Unlock()
		if cut {
			_ = st.broken(errCutShort) // it says so to others
		}
		return nil
	case code == drivers.EndTaken && st.handler == nil:
		st.out.refused.Store(true)
		st.out.gone.Store(true)
		st.mu.Lock()
		st.out.waiter.complete()
		st.mu.Unlock()
		return nil
	case (code == drivers.EndReturned || code == drivers.EndFailed) && st.handler == nil:
		// When this side has ended the session the peer's handlers fail because of that.
		if code == drivers.EndFailed && s.Failing() {
			return nil
		}
		err := error(io.EOF)
		if code == drivers.EndFailed {
			err = nameMethod(ipc.ParseError(slices.Clone(f.Payload[1:])), &st.call.Method)
			if isOverdue(err) {
				err = st.late // as if this side had found it
			}
		}
		s.streams.mu.Lock()
		_, ok := s.streams.own[st.tx]
		delete(s.streams.own, st.tx)
		s.streams.mu.Unlock()
		if ok {
			s.streams.places.refill(1)
		}
		st.mu.Lock()
		if f.Meta != nil {
			st.in.lastMeta = f.Meta
		}
		if st.in.begun && err == io.EOF {
			err = errCutShort
		}
		st.mu.Unlock()
		st.finish(err, false)
		return nil
	case (code == drivers.EndGivenUp || code == drivers.EndDeadline) && st.handler != nil:
		reason := drivers.ReasonGivenUp
		if code == drivers.EndDeadline {
			reason = drivers.ReasonDeadline
		}
		st.handler.cancel(reason)
		st.finish(st.handler.reason(), true)
		return nil
	}
	return fmt.Errorf("%w: a stream (%#x) ends with code %d", ipc.ErrProtocol, st.tx, code)
}

var errCutShort = fmt.Errorf("%w: malformed items: the last one is cut short", ipc.ErrProtocol)
