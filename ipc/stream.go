package ipc

import "context"

// StreamCaller is a [Caller] that can open streams. Clients, pools and what worker.Host
// returns are StreamCallers.
type StreamCaller interface {
	Caller
	// OpenStream opens a stream of encoded items. [ServerStream], [ClientStream] and
	// [BidiStream] do this with types. It waits while the peer has as many streams as it
	// takes. ctx bounds the whole stream, and so does the timeout of call if it has one of
	// its own: [DefaultTimeout] bounds nothing here. OpenStream does not keep o.
	OpenStream(ctx context.Context, call *Invocation, o *StreamOpening) (Stream, error)
}

// StreamOpening says how a stream begins.
type StreamOpening struct {
	// First, if not nil, is the first item. It was sent or copied when OpenStream returns.
	First []byte
	// Attached are the attachments of First, or nil.
	Attached *Attachments
	// Only says that First is the only item of the side that opens the stream.
	Only bool
	// Lasting says that the stream has no end of its own, so that Close of a client does not wait
	// for it.
	Lasting bool
	// OnEnd, if not nil, is called once when the stream is over in both directions: with
	// nil if the handler has returned without an error, or else with why. It must not block.
	// It is not called if the stream could not be opened.
	OnEnd func(error)
}

// Stream is one end of a stream: encoded items in both directions, which end independently.
//
// Any goroutine may call Send, Flush, CloseSend and Close. One goroutine at a time may call
// Receive.
type Stream interface {
	// Send sends one item, or gathers it to send it soon with others. It keeps nothing of
	// item. It waits while the peer has as many bytes of items as it takes, until ctx or
	// the stream ends. It returns io.EOF when the handler on the other side takes no further
	// items, as it has returned or is about to; Receive tells how that has ended. If the handler has
	// failed it may return that error instead. After CloseSend it fails with CodeFailedPrecondition.
	Send(ctx context.Context, item []byte) error
	// Claim returns n bytes to build an item in, which Commit then sends. What they hold at
	// first is undefined. Until Commit, which has to follow, other senders wait: those of
	// this stream, and if the item is large and lies in shared memory those of the
	// whole link. So be quick. Claim waits as Send does. It panics if n is negative.
	Claim(ctx context.Context, n int) ([]byte, error)
	// Commit sends the first n bytes of what was claimed, or nothing if n is negative. It
	// panics if n is more than was claimed, or nothing was.
	Commit(ctx context.Context, n int) error
	// Flush sends what is gathered.
	Flush(ctx context.Context) error
	// CloseSend says that there will be no further item, after those that were sent.
	CloseSend(ctx context.Context) error
	// Receive returns the next item, which is valid until the next call of Receive. It
	// returns io.EOF after the last one, if the other side has ended without an error.
	Receive(ctx context.Context) ([]byte, error)
	// Close gives the stream up on the side that has opened it, if it is not over. On
	// the other side it does nothing: there the handler's return ends the stream. Close
	// does not wait.
	Close()
}

// openStream opens a stream of c.
func openStream(ctx context.Context, c Caller, call *Invocation, o *StreamOpening) (Stream, error) {
	if s, ok := c.(StreamCaller); ok {
		return s.OpenStream(ctx, call, o)
	}
	return nil, Errorf(CodeUnimplemented, "open the stream %q: %w: a %T opens no streams", call.Method.Name, ErrUnsupported, c)
}

// AttachedStream is a [Stream] whose items may have attachments. What is one end of a link is an
// AttachedStream, and so is the stream that the function of an [Interceptor] gets. What that returns need not
// be one: then the attachments of an item go around it, with the context of Send and with what Receive
// returns. A stream that wraps another in some other place has to have both methods, and forward them.
type AttachedStream interface {
	Stream
	// SendAttached is Send for an item that may have attachments, which stay the caller's. a may be
	// nil.
	SendAttached(ctx context.Context, item []byte, a *Attachments) error
	// Attachments returns those of the item that Receive has returned last, or nil. They are
	// the caller's from now on.
	Attachments() *Attachments
}

// MemoryStream is an [AttachedStream] that says whether the two processes share memory, so that it is of use
// to pass files of such memory.
type MemoryStream interface {
	AttachedStream
	// SharesMemory reports whether the driver has the capability SharedMemory.
	SharesMemory() bool
}

// WideStream is a [Stream] whose window can be made larger before it has grown by being read. What is
// one end of a link is a WideStream.
type WideStream interface {
	Stream
	// Widen lets the other side send n bytes that nobody has read. The goroutine that receives
	// may call it. [Receiver.Widen] says more.
	Widen(ctx context.Context, n int)
}

// PartStream is a [Stream] that can send as much as the peer takes. What is one end of a link is a
// PartStream.
type PartStream interface {
	Stream
	// SendPart sends an item with the first n bytes of b at once, after those that are gathered:
	// all of b if that is small, and as much as the peer takes in one item if not. It waits as
	// Send does. With an error nothing of b was sent, and unless the stream has ended it goes on.
	SendPart(ctx context.Context, b []byte) (n int, err error)
}

// EndedStream is a [Stream] that says whether it is over. What is one end of a link is an EndedStream.
type EndedStream interface {
	Stream
	// Ended reports whether the stream is over in both directions. After io.EOF of Receive it is not if the other side
	// has only said that it sends no more: see CloseSend.
	Ended() bool
}

// Ended reports whether s is over in both directions, as [EndedStream.Ended] does. If s was wrapped by an interceptor, and does not say, it reports true.
func Ended(s Stream) bool {
	e, ok := s.(EndedStream)
	return !ok || e.Ended()
}

// wholeItem is how large an item may be that is never sent in pieces.
const wholeItem = 4<<10 - 16

// SendPart sends a part of b over s, as [PartStream.SendPart] does, also if s was wrapped by an
// interceptor and is no PartStream: then the part is 4 KiB at most.
func SendPart(ctx context.Context, s Stream, b []byte) (n int, err error) {
	if s, ok := s.(PartStream); ok {
		return s.SendPart(ctx, b)
	}
	n = min(len(b), wholeItem)
	if err := s.Send(ctx, b[:n]); err != nil {
		return 0, err
	}
	_ = s.Flush(ctx) // the item was taken, and the next call finds out what is wrong
	return n, nil
}

// NoAttachments returns the error of an item with attachments, for a stream that is no [AttachedStream].
func NoAttachments(s Stream) error {
	return Errorf(CodeUnimplemented, "%w: the stream is a %T, which is no ipc.AttachedStream: it has to forward SendAttached and Attachments, or its items have no buffers or files", ErrUnsupported, s)
}
