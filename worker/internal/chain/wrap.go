package chain

import (
	"context"
	"sync/atomic"

	"github.com/tandemipc/tandem/ipc"
)

// A function of an interceptor may return a stream that knows nothing of attachments: one that embeds the
// [ipc.Stream] that it got, and has a Send or a Receive of its own. Then the attachments of an item go around it.
//
//	sender -- SendAttached --> facade -- Send --> wrapper -- Send --> bearer -- SendAttached --> stream
//	                             \........ attachments, in the context ......../
//
// What is received needs no such way: the attachments are those of the item that the stream has returned last. Whether the stream is over is
// asked around it as well.

// wrap returns the stream that f makes of st, and that has attachments.
func wrap(ctx context.Context, f func(context.Context, *ipc.Call, ipc.Stream) ipc.Stream, call *ipc.Call, st ipc.Stream) ipc.Stream {
	inner := &bearer{Stream: st}
	outer := f(ctx, call, inner)
	if outer == ipc.Stream(inner) {
		return st
	}
	if _, ok := outer.(ipc.AttachedStream); ok {
		return outer
	}
	return &facade{outer, inner, call.Method.Name}
}

// bearer is the stream that a wrapper gets.
type bearer struct {
	ipc.Stream
	carries atomic.Bool   // items may have attachments, so that their contexts say
	bare    atomic.Uint64 // items whose contexts have not said
}

// carried is what a context has of an item.
type carried struct {
	attached *ipc.Attachments // may be nil
	taken    atomic.Bool
}

// carriedKey is the key of it. Each bearer has its own, for there may be some around each other.
type carriedKey struct{ to *bearer }

// Send implements [ipc.Stream].
func (b *bearer) Send(ctx context.Context, item []byte) error {
	if !b.carries.Load() {
		return b.Stream.Send(ctx, item)
	}
	c, ok := ctx.Value(carriedKey{b}).(*carried)
	if !ok {
		b.bare.Add(1)
		return b.Stream.Send(ctx, item)
	}
	c.taken.Store(true)
	return b.SendAttached(ctx, item, c.attached)
}

// SendAttached implements [ipc.AttachedStream].
func (b *bearer) SendAttached(ctx context.Context, item []byte, a *ipc.Attachments) error {
	return sendAttached(ctx, b.Stream, item, a)
}

// Attachments implements [ipc.AttachedStream].
func (b *bearer) Attachments() *ipc.Attachments { return attachmentsOf(b.Stream) }

// facade is what others see of a wrapper.
type facade struct {
	ipc.Stream // the wrapper
	inner      *bearer
	method     string
}

// SendAttached implements [ipc.AttachedStream].
func (f *facade) SendAttached(ctx context.Context, item []byte, a *ipc.Attachments) error {
	if !f.inner.carries.Load() {
		f.inner.carries.Store(true)
	}
	c := &carried{attached: a}
	before := f.inner.bare.Load()
	err := f.Stream.Send(context.WithValue(ctx, carriedKey{f.inner}, c), item)
	if err == nil && !a.Empty() && !c.taken.Load() && f.inner.bare.Load() != before {
		return ipc.Errorf(ipc.CodeFailedPrecondition, "tandem: the stream of %q is wrapped by a %T that sends with other contexts than its Send gets, so the buffers and files of an item were not sent: it has to pass the context on, or to be an ipc.AttachedStream (SendAttached and Attachments)", f.method, f.Stream)
	}
	return err
}

// Attachments implements [ipc.AttachedStream].
func (f *facade) Attachments() *ipc.Attachments { return f.inner.Attachments() }

// Ended implements [ipc.EndedStream].
func (f *facade) Ended() bool { return ipc.Ended(f.inner.Stream) }

// sendAttached sends an item with attachments, which may be nil.
func sendAttached(ctx context.Context, st ipc.Stream, item []byte, a *ipc.Attachments) error {
	if to, ok := st.(ipc.AttachedStream); ok {
		return to.SendAttached(ctx, item, a)
	}
	if a.Empty() {
		return st.Send(ctx, item)
	}
	return ipc.NoAttachments(st)
}

// attachmentsOf returns the attachments of the item that was received last, or nil.
func attachmentsOf(st ipc.Stream) *ipc.Attachments {
	if from, ok := st.(ipc.AttachedStream); ok {
		return from.Attachments()
	}
	return nil
}
