package engine

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/bulk"
)

// Request is one request or notification on its way through a handler.
type Request struct {
	// Out is memory that the handler's Invoke may build its response in, from its
	// beginning.
	Out []byte

	session *Session
	handler *Handler
	ctx     *requestContext
	tx      uint64 // of the request; of notifications how many the frame holds, see drivers.Frame
	cost    int64  // what it takes of the window
	payload []byte
	in      []byte // memory that payload is copied into
	// borrowed says that payload lies in memory of the link, which the peer may change
	// at any time. It has to be read once, or be copied first.
	borrowed bool
	owned    bool // payload is nobody else's
	oneWay   bool
	direct   bool             // its caller waits in this goroutine, and there is no frame to answer
	stream   bool             // it is no request, but a stream that the background reader serves
	release  func()           // gives borrowed memory back, if it was held
	attached *ipc.Attachments // of the request, or nil
	reply    *ipc.Attachments // of the response, or nil

	outer      context.Context   // the context that interceptors have made of ctx, nil if they have not
	packed     packed            // the notifications of a frame of several
	background *backgroundReader // that runs it, if one does
	answer     drivers.Frame     // to it
	inPlace    placement
}

var requests = sync.Pool{New: func() any { return new(Request) }}

// maxKept bounds the buffers that wait for the next request.
const maxKept = 64 << 10

// clear makes r ready for the next request.
func (r *Request) clear() {
	if r.attached != nil || r.reply != nil {
		r.releaseAttached()
	}
	in, out := r.in[:0], r.Out[:0]
	if cap(in) > maxKept {
		in = nil
	}
	if cap(out) > maxKept {
		out = nil
	}
	*r = Request{in: in, Out: out}
}

// init makes r the request of a frame. It is called with the reader state, and copies
// nothing. c is a context that is free, or nil.
func (r *Request) init(s *Session, h *Handler, f *drivers.Frame, c *requestContext) {
	r.session, r.handler, r.tx, r.oneWay = s, h, f.Tx, f.Kind == drivers.KindNotify
	if c == nil {
		c = s.newContext()
	}
	r.ctx = c
	c.init(s, f.Tx, s.timeoutAsked(f))
	r.payload, r.owned, r.borrowed = f.Payload, f.Owned, !f.Owned
	r.cost = costOf(f)
	if f.Meta != nil {
		c.exchange.Store(&exchange{request: f.Meta.Header()})
	}
	if f.Attached != nil {
		r.attached, f.Attached = f.Attached, nil
	}
	if r.oneWay {
		r.packed.n = f.Tx
	}
	f.Payload = nil // so that the reader does not keep the memory
}

// noTimeout in a frame says that the caller waits for as long as it takes, whatever
// was agreed on.
const noTimeout = math.MaxInt64

// timeoutAsked returns how long the caller of f waits, 0 if it does not say.
func (s *Session) timeoutAsked(f *drivers.Frame) time.Duration {
	switch {
	case f.Kind == drivers.KindNotify || f.Remaining == noTimeout:
		return 0
	case f.Remaining > 0:
		return f.Remaining
	}
	return s.config.AgreedTimeout
}

// kind returns the kind of the request's frame.
func (r *Request) kind() drivers.Kind {
	if r.oneWay {
		return drivers.KindNotify
	}
	return drivers.KindRequest
}

// Codec returns the codec of the link.
func (r *Request) Codec() ipc.Codec { return r.session.config.Codec }

// Context returns the context of the handler.
func (r *Request) Context() context.Context {
	if r.outer != nil {
		return r.outer
	}
	return r.ctx
}

// copyRequest returns the request in memory that nobody else changes.
func (r *Request) copyRequest() []byte {
	if r.borrowed {
		r.in = bulk.Append(r.in[:0], r.payload)
		r.payload, r.borrowed = r.in, false
	}
	return r.payload
}

// hold keeps a request that lies in memory of the link valid. It is called with the
// reader state, before the next frame is read.
func (r *Request) hold() {
	if r.borrowed {
		r.release = r.session.link.Hold()
	}
}

// Release says that nobody needs the request any more, though the handler runs on.
func (r *Request) Release() {
	if r.background != nil && !r.packed.begun { // what is packed was copied before
		r.background.requestRead(r.session)
	}
}

// Decode decodes a request. The codecs that read it once do so where it lies.
func Decode[T any](codec ipc.Codec, r *Request) (T, error) {
	switch codec {
	case ipc.Raw:
		if _, ok := any((*T)(nil)).(*[]byte); !ok {
			return ipc.Unmarshal[T](codec, r.payload)
		}
		payload := r.payload
		if !r.owned {
			payload = bulk.Append(payload[:0:0], payload)
		}
		r.owned = false // it is the handler's now
		return any(payload).(T), nil
	case ipc.Fixed:
		return ipc.Unmarshal[T](codec, r.payload)
	}
	return ipc.Unmarshal[T](codec, r.copyRequest())
}

// dispatch runs the handler of a frame outside the reader. It is called with the reader
// state.
func (s *Session) dispatch(h *Handler, f *drivers.Frame) {
	packed := isPacked(f)
	if packed && h.semaphore != nil {
		s.dispatchPacked(h, f)
		return
	}
	s.dispatchOne(h, f, packed || !h.InPlace)
}

// dispatchOne is dispatch for what one run handles. toCopy says that the request may not
// stay where it is.
func (s *Session) dispatchOne(h *Handler, f *drivers.Frame, toCopy bool) {
	if !s.inFlight.enter() {
		s.refuse(f.Kind, f.Tx, costOf(f), errDraining)
		f.Payload = nil
		return
	}
	r := requests.Get().(*Request)
	r.init(s, h, f, nil)
	r.ctx.fixDeadline()
	if toCopy {
		r.copyRequest()
	}
	if !r.oneWay {
		s.tracked.add(r.ctx)
	}
	s.handling.Add(1)
	if r.oneWay && h.semaphore == nil {
		s.laneOf(h).enqueue(r)
		return
	}
	if h.semaphore.acquire(r) {
		r.hold()
		go r.serve()
	}
}

// serve runs a dispatched request and frees it.
func (r *Request) serve() {
	s, h, ctx, release, oneWay, cost := r.session, r.handler, r.ctx, r.release, r.oneWay, r.cost
	lease := s.watchLease(h)
	defer func() { // also if the handler ends its goroutine
		lease.stop()
		if release != nil {
			release()
		}
		if !oneWay {
			s.tracked.remove(ctx)
		}
		s.finish(oneWay, cost)
		s.inFlight.exit()
		if next := h.semaphore.release(); next != nil {
			go next.serve()
		}
		s.handling.Done()
	}()
	s.run(r, true, nil)
	r.clear()
	requests.Put(r)
}
