package engine

import (
	"fmt"
	"slices"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/memory"
)

// Buffers and files that travel beside the bytes of a message. A link that is a
// [drivers.Sharer] carries them itself. On any other the bytes of the buffers follow those of the
// message, in the same frame or item, and count like them.

// sharing is what the link of a session carries itself.
type sharing struct{ buffers, files bool }

func (s *Session) sharingOf(l drivers.Link) (shares sharing) {
	if sharer, ok := l.(drivers.Sharer); ok {
		shares.buffers, shares.files = sharer.Shares()
		if s.config.Forgotten != nil {
			sharer.OnForgotten(s.config.Forgotten.Tell)
		}
	}
	return shares
}

// attach makes a, which may be nil, the attachments of f, whose payload is complete. What f has
// of a is the caller's still.
func (s *Session) attach(f *drivers.Frame, a *ipc.Attachments) error {
	if a.Empty() {
		return nil
	}
	payload, handles, left, err := s.pack(f.Payload, a)
	if err != nil {
		return err
	}
	f.Payload, f.Handles, f.Attached = payload, handles, left
	return nil
}

// pack returns a payload with all of a that the link does not carry itself, what says so, and
// what is left for the link.
func (s *Session) pack(payload []byte, a *ipc.Attachments) (_, handles []byte, left *ipc.Attachments, err error) {
	if len(a.Files) > 0 && !s.shares.files {
		return nil, nil, nil, ipc.Errorf(ipc.CodeUnimplemented, "%w: the link passes no files", ipc.ErrUnsupported)
	}
	if s.shares.buffers || len(a.Buffers) == 0 {
		return payload, nil, a, nil
	}
	size := len(payload)
	if size > s.maxPayload {
		return nil, nil, nil, &ipc.SizeError{Size: size, Limit: s.maxPayload}
	}
	for i := range a.Buffers {
		n := a.Buffers[i].What.Len()
		if n > s.maxPayload-size { // before memory is taken for it
			return nil, nil, nil, &ipc.SizeError{Size: size + n, Limit: s.maxPayload}
		}
		size += n
	}
	packed := append(make([]byte, 0, size), payload...)
	for i := range a.Buffers {
		b := a.Buffers[i].What.Bytes()
		h := drivers.Handle{Number: a.Buffers[i].Number, Size: uint64(len(b))}
		handles = h.Append(handles)
		packed = append(packed, b...)
	}
	if len(a.Files) > 0 {
		left = &ipc.Attachments{Files: a.Files}
	}
	return packed, handles, left, nil
}

// attachmentsOf takes the attachments out of a frame that has come, and leaves the payload that its
// sender has meant. It returns nil if there are none. It is called with the reader state.
func (s *Session) attachmentsOf(f *drivers.Frame) (*ipc.Attachments, error) {
	a := f.Attached
	f.Attached = nil
	if s.shares.buffers || len(f.Handles) == 0 {
		return a, nil
	}
	payload, a, err := s.unpack(f.Payload, f.Handles, a, f.Owned)
	if err != nil {
		a.Release()
		return nil, err
	}
	f.Inline = len(f.Payload) - len(payload)
	f.Payload, f.Owned = payload, false // the buffers lie in the same memory
	return a, nil
}

// unpack undoes pack. owned says that nobody else uses b. a may be nil, and is added to.
func (s *Session) unpack(b, handles []byte, a *ipc.Attachments, owned bool) ([]byte, *ipc.Attachments, error) {
	if a == nil {
		a = new(ipc.Attachments)
	}
	var sizes []drivers.Handle
	rest := uint64(len(b))
	for len(handles) > 0 {
		h, next, err := drivers.NextHandle(handles)
		if err != nil {
			return nil, a, err
		}
		if handles = next; h.Region == drivers.FileRegion {
			continue // the link has brought it
		}
		if h.Size > rest || len(sizes) == ipc.MaxBuffers {
			return nil, a, fmt.Errorf("%w: malformed frame: buffers of more bytes than it has, or too many", ipc.ErrProtocol)
		}
		rest -= h.Size
		sizes = append(sizes, h)
	}
	payload, b := b[:rest:rest], b[rest:]
	if !owned {
		b = slices.Clone(b)
	}
	for _, h := range sizes {
		a.Add(h.Number, ipc.NewBuffer(&private{b[:h.Size:h.Size], s.config.Forgotten}))
		b = b[h.Size:]
	}
	return payload, a, nil
}

// giveAttached gives the caller the attachments of a response.
func (c *call) giveAttached(inv *ipc.Invocation) {
	if c.attached == nil || c.err != nil || inv.Received == nil {
		return
	}
	receive(inv, c.attached)
	c.attached = nil
}

// receive makes a what inv has received.
func receive(inv *ipc.Invocation, a *ipc.Attachments) {
	inv.Received.Release() // of a call that an interceptor has made before
	inv.Received.Move(a)
}

// private is memory of this process as the backing of a buffer that has come.
type private struct {
	mem       []byte
	forgotten *memory.Forgotten
}

// Bytes implements [ipc.Backing].
func (p *private) Bytes() []byte { return p.mem }

// Region implements [ipc.Backing].
func (p *private) Region() (ipc.Region, int) { return nil, 0 }

// Frozen implements [ipc.Backing]: no other process can write the memory.
func (p *private) Frozen() bool { return true }

// OnForgotten implements [ipc.Teller].
func (p *private) OnForgotten() func(bytes int) {
	forgotten := p.forgotten
	return func(bytes int) { forgotten.Tell("buffer", bytes) }
}

// Free implements [ipc.Backing].
func (p *private) Free(forgotten bool) {
	if forgotten {
		p.forgotten.Tell("buffer", len(p.mem))
	}
}

// discard releases what nobody has taken of a frame.
func discard(f *drivers.Frame) {
	if f.Attached != nil {
		f.Attached.Release()
		f.Attached.Recycle()
		f.Attached = nil
	}
}

// SetAttached makes a the attachments of the response. They are released when that was sent, or
// will not be.
func (r *Request) SetAttached(a *ipc.Attachments) {
	if before := r.reply; before != nil { // of an interceptor that has run the handler twice
		var all ipc.Attachments
		if a != nil {
			all.Buffers, all.Files = append(all.Buffers, a.Buffers...), append(all.Files, a.Files...)
		}
		if r.attached != nil {
			all.Buffers, all.Files = append(all.Buffers, r.attached.Buffers...), append(all.Files, r.attached.Files...)
		}
		before.ReleaseExcept(&all)
	}
	r.reply = a
}

// Attached returns the attachments of the request, or nil. They are released when the handler
// has returned.
func (r *Request) Attached() *ipc.Attachments { return r.attached }

// releaseAttached releases the attachments of a request and of its response.
func (r *Request) releaseAttached() {
	r.reply.ReleaseExcept(r.attached)
	r.attached.Release()
	r.reply.Recycle()
	r.attached.Recycle()
	r.attached, r.reply = nil, nil
	r.answer.Attached, r.answer.Handles = nil, nil
}

// attachReply gives the frame of the response its attachments, and may change the response. It
// returns an encoded error if that has to be the answer.
func (r *Request) attachReply(s *Session, response *[]byte) (failure []byte) {
	f := &r.answer
	f.Payload = *response
	if err := s.attach(f, r.reply); err != nil {
		return ipc.AppendError(nil, err)
	}
	*response = f.Payload
	return nil
}
