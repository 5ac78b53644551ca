package ipc

import (
	"context"
	"sync"
)

// give puts the attachments into a message, whose receiver has them from now on, and releases those
// that the message does not name. If it fails all are still a's.
func give[T any](a *Attachments, message *T) error {
	if err := Resolve(message, a); err != nil {
		return err
	}
	for i := range a.Buffers {
		if !a.Buffers[i].used {
			a.Buffers[i].What.Release()
		}
	}
	for i := range a.Files {
		if !a.Files[i].used {
			a.Files[i].What.drop()
		}
	}
	a.Buffers, a.Files = nil, nil
	return nil
}

// attachedCall is a call whose messages may have attachments, with all that it needs.
type attachedCall struct {
	Invocation
	sent, received Attachments
}

var attachedCalls = sync.Pool{New: func() any { return new(attachedCall) }}

// free makes the memory of c another call's. Nobody uses it any more.
func (c *attachedCall) free() {
	*c = attachedCall{}
	attachedCalls.Put(c)
}

// newAttachedCall returns a call of req.
func newAttachedCall[Req any](call *Invocation, req Req) (*attachedCall, error) {
	c := attachedCalls.Get().(*attachedCall)
	c.Invocation = *call
	if err := attachTo(&c.sent, req); err != nil {
		return nil, Errorf(CodeInvalidArgument, "encode the request of %q: %w", call.Method.Name, err)
	}
	if !c.sent.Empty() {
		c.Attached = &c.sent
	}
	c.Received = &c.received
	return c, nil
}

// sendAttached sends an item that was encoded into b, with its attachments.
func (s *Sender[T]) sendAttached(ctx context.Context, b []byte, item T) error {
	a, err := Attach(item)
	if err != nil {
		return Errorf(CodeInvalidArgument, "encode an item of %q: %w", s.method, err)
	}
	if st, ok := s.stream.(AttachedStream); ok {
		return st.SendAttached(ctx, b, a)
	}
	if a == nil {
		return s.stream.Send(ctx, b)
	}
	return NoAttachments(s.stream)
}

// attach gives the item that was received last its attachments, or releases them if err says that
// it cannot be decoded.
func (r *Receiver[T]) attach(item *T, err error) error {
	st, ok := r.stream.(AttachedStream)
	if !ok && err == nil {
		if err = Resolve(item, nil); err != nil {
			err = NoAttachments(r.stream)
		}
	}
	if !ok {
		return err
	}
	a := st.Attachments()
	if a == nil {
		a = NewAttachments()
	}
	if err == nil {
		err = give(a, item)
	}
	if err != nil {
		a.Release()
	}
	a.Recycle()
	return err
}

// callAttached makes a call whose messages may have attachments.
func (m *Method[Req, Res]) callAttached(ctx context.Context, c Caller, call *Invocation, codec Codec, req Req) (res Res, err error) {
	own, err := newAttachedCall(call, req)
	if err != nil {
		return res, err
	}
	returned := false
	defer func() {
		own.received.Release() // what was not given away, also if an interceptor panics
		if returned {
			own.free()
		}
	}()
	out := getScratch()
	defer putScratch(out)
	err = m.exchange(ctx, c, &own.Invocation, codec, req, out)
	if returned = true; err != nil {
		return res, err
	}
	if res, err = Unmarshal[Res](codec, out.b); err == nil {
		err = give(&own.received, &res)
	}
	if err != nil {
		return res, notDecoded(m.call.Method.Name, err)
	}
	return res, nil
}

// decodeAttached decodes an item, and gives it its attachments. Only such an item escapes.
func (r *Receiver[T]) decodeAttached(b []byte) (T, error) {
	item, err := Unmarshal[T](r.codec, b)
	err = r.attach(&item, err)
	return item, err
}
