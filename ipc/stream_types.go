package ipc

import (
	"context"
	"errors"
	"io"
	"iter"
	"reflect"
	"sync"
)

// ServerStream is a method that takes one Req and answers with many Items. Host and worker
// declare it alike. It is immutable and safe for concurrent use.
type ServerStream[Req, Item any] struct{ declaration }

// NewServerStream declares a stream of answers. Options and panics are those of [NewMethod]. A
// method and a stream, or two streams of different kinds, may have the same name.
//
// The timeout of a stream ([WithTimeout]) bounds all of it. The timeout that a client has for
// calls does not count for streams. A stream is never sent again by itself, so
// [WithAttempts] and [WithIdempotent] mean nothing here.
func NewServerStream[Req, Item any](name string, opts ...MethodOption) *ServerStream[Req, Item] {
	s := new(ServerStream[Req, Item])
	s.declare(name, "server stream", opts, reflect.TypeFor[Req](), reflect.TypeFor[Item]())
	return s
}

// Stream opens a stream and returns its items. If the stream fails, also when it could not be
// opened, the last element is an error. Leaving the loop ends the stream, and with it
// the context of the handler.
//
// Items of type []byte with the codec [Raw] are valid until the next one.
func (s *ServerStream[Req, Item]) Stream(ctx context.Context, c Caller, req Req, opts ...CallOption) iter.Seq2[Item, error] {
	s.check(ctx, c)
	return func(yield func(Item, error) bool) {
		st, err := s.Open(ctx, c, req, opts...)
		if err != nil {
			yield(*new(Item), err)
			return
		}
		defer st.Close()
		st.All(ctx)(yield)
	}
}

// Open opens a stream: it returns when the request was sent. ctx and the timeout bound the
// whole stream. The stream has to be closed, or read to its end, or ctx has to end.
func (s *ServerStream[Req, Item]) Open(ctx context.Context, c Caller, req Req, opts ...CallOption) (*ServerStreamCall[Item], error) {
	s.check(ctx, c)
	codec := s.Codec(c.Codec())
	b := getScratch()
	defer putScratch(b)
	var err error
	if b.b, err = Marshal(codec, b.b, req); err != nil {
		return nil, Errorf(CodeInvalidArgument, "encode the request of %q: %w", s.call.Method.Name, err)
	}
	first := b.b
	if first == nil {
		first = []byte{}
	}
	o := &StreamOpening{First: first, Only: true}
	if s.carries {
		if o.Attached, err = Attach(req); err != nil {
			return nil, Errorf(CodeInvalidArgument, "encode the request of %q: %w", s.call.Method.Name, err)
		}
	}
	st, err := openStream(ctx, c, s.call.with(opts), o)
	if err != nil {
		return nil, err
	}
	return &ServerStreamCall[Item]{Receiver[Item]{st, codec, formOf[Item](codec), s.call.Method.Name}}, nil
}

// ServerStreamCall is an open stream of answers, on the side that has opened it.
type ServerStreamCall[Item any] struct{ Receiver[Item] }

// Close gives the stream up, if it is not over: the context of its handler ends, and what it
// has sent is dropped. Any goroutine may call Close, also more than once.
func (s *ServerStreamCall[Item]) Close() { s.stream.Close() }

// ClientStream is a method that takes many Items and answers with one Res. Host and worker
// declare it alike. It is immutable and safe for concurrent use.
type ClientStream[Item, Res any] struct{ declaration }

// NewClientStream declares a stream of requests. Options and panics are those of
// [NewServerStream].
func NewClientStream[Item, Res any](name string, opts ...MethodOption) *ClientStream[Item, Res] {
	s := new(ClientStream[Item, Res])
	s.declare(name, "client stream", opts, reflect.TypeFor[Item](), reflect.TypeFor[Res]())
	return s
}

// Open opens a stream. ctx and the timeout bound the whole stream. It has to be ended by
// CloseAndReceive or Close, or ctx has to end.
func (s *ClientStream[Item, Res]) Open(ctx context.Context, c Caller, opts ...CallOption) (*ClientStreamCall[Item, Res], error) {
	s.check(ctx, c)
	codec := s.Codec(c.Codec())
	st, err := openStream(ctx, c, s.call.with(opts), &StreamOpening{})
	if err != nil {
		return nil, err
	}
	return &ClientStreamCall[Item, Res]{Sender: Sender[Item]{st, codec, formOf[Item](codec), s.call.Method.Name}}, nil
}

// ClientStreamCall is an open stream of requests, on the side that has opened it.
type ClientStreamCall[Item, Res any] struct {
	Sender[Item]

	mu       sync.Mutex
	response *Res // that has come
	given    bool // the caller has the response
	closed   bool
}

// received says that the response has come, or that it is the caller's now.
func (s *ClientStreamCall[Item, Res]) received(res *Res, given bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.response, s.given = res, given
	if s.closed && !given {
		s.dropLocked()
	}
}

// drop releases what the response has, unless it is the caller's.
func (s *ClientStreamCall[Item, Res]) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked()
}

func (s *ClientStreamCall[Item, Res]) dropLocked() {
	if s.response != nil && !s.given {
		ReleaseAll(*s.response)
	}
}

// CloseAndReceive says that there are no further items, and waits for the answer. When the
// handler has failed it returns that error, as [Method.Call] does. If ctx ends before, it
// returns ctx.Err(), and the stream goes on: it has to be closed, or CloseAndReceive be
// called again.
func (s *ClientStreamCall[Item, Res]) CloseAndReceive(ctx context.Context) (res Res, err error) {
	if err := s.stream.CloseSend(ctx); err != nil {
		return res, err
	}
	if s.response == nil {
		r := Receiver[Res]{s.stream, s.codec, formOf[Res](s.codec), s.method}
		res, err = r.Receive(ctx)
		if err == io.EOF {
			return res, Errorf(CodeInternal, "the handler of %q has returned no response", s.method)
		}
		if err != nil {
			return res, err
		}
		if raw, ok := any(res).([]byte); ok {
			res = any(append([]byte(nil), raw...)).(Res)
		}
		kept := res // which the returns below change
		s.received(&kept, false)
	}
	switch _, err = s.stream.Receive(ctx); err {
	case nil:
		s.Close()
		return *new(Res), Errorf(CodeInternal, "the handler of %q has returned more than one response", s.method)
	case io.EOF:
		s.received(s.response, true)
		return *s.response, nil
	}
	if ctx.Err() == nil || !errors.Is(err, ctx.Err()) { // the stream has failed
		s.drop()
	}
	return *new(Res), err
}

// Close gives the stream up, as [ServerStreamCall.Close] does.
func (s *ClientStreamCall[Item, Res]) Close() {
	s.mu.Lock()
	s.closed = true
	s.dropLocked()
	s.mu.Unlock()
	s.stream.Close()
}

// BidiStream is a method with many items in both directions, independently of each other. The
// side that opens it sends Out and receives In. Host and worker declare it alike. It is
// immutable and safe for concurrent use.
type BidiStream[Out, In any] struct{ declaration }

// NewBidiStream declares a stream in both directions. Options and panics are those of
// [NewServerStream].
func NewBidiStream[Out, In any](name string, opts ...MethodOption) *BidiStream[Out, In] {
	s := new(BidiStream[Out, In])
	s.declare(name, "bidi stream", opts, reflect.TypeFor[Out](), reflect.TypeFor[In]())
	return s
}

// Open opens a stream. ctx and the timeout bound the whole stream. It has to be closed, or
// read to its end, or ctx has to end.
func (s *BidiStream[Out, In]) Open(ctx context.Context, c Caller, opts ...CallOption) (*BidiStreamCall[Out, In], error) {
	s.check(ctx, c)
	codec, name := s.Codec(c.Codec()), s.call.Method.Name
	st, err := openStream(ctx, c, s.call.with(opts), &StreamOpening{})
	if err != nil {
		return nil, err
	}
	return &BidiStreamCall[Out, In]{Sender[Out]{st, codec, formOf[Out](codec), name}, Receiver[In]{st, codec, formOf[In](codec), name}}, nil
}

// BidiStreamCall is an open stream in both directions, on the side that has opened it. One
// goroutine may send while another one receives.
type BidiStreamCall[Out, In any] struct {
	Sender[Out]
	Receiver[In]
}

// Close gives the stream up, as [ServerStreamCall.Close] does.
func (s *BidiStreamCall[Out, In]) Close() { s.Sender.stream.Close() }

// Sender sends the items of one direction of a stream. Any goroutine may use it.
type Sender[T any] struct {
	stream Stream
	codec  Codec
	form   form
	method string
}

// NewSender returns a sender of a stream for a method of this name. It is for packages that
// serve streams.
func NewSender[T any](s Stream, c Codec, method string) *Sender[T] {
	return &Sender[T]{s, c, formOf[T](c), method}
}

// form says how values become items. To compare codecs would cost a good part of what sending
// an item does.
type form uint8

const (
	encoded  form = iota // by the codec
	asIs                 // they are []byte
	memory               // they are copied as they are
	attached             // by the codec, and they may have attachments
)

func formOf[T any](c Codec) form {
	if Carries(reflect.TypeFor[T]()) {
		return attached
	}
	switch c {
	case Raw:
		return asIs
	case Fixed:
		return memory
	}
	return encoded
}

// Send sends one item. It keeps nothing of it. With the codecs [Raw] and [Fixed] it allocates
// nothing. Small items that follow each other closely travel together, and an item that
// comes after a pause is sent at once: see docs/streams.md.
//
// Send waits while the peer has as many bytes of items as it takes, until ctx or the stream
// ends. Its errors are those of [Method.Call], an error that wraps [ErrClosed] after Close,
// and io.EOF if the handler takes no further items, as it has returned or is about to: Receive
// tells how that has ended. If the handler has failed Send may return that error instead. After
// CloseSend it fails with [CodeFailedPrecondition]. If ctx ends while a large item is being sent,
// that ends the stream.
func (s *Sender[T]) Send(ctx context.Context, item T) error {
	switch s.form {
	case memory:
		b, err := s.stream.Claim(ctx, fixedSize[T]())
		if err != nil {
			return err
		}
		return s.stream.Commit(ctx, len(appendFixed(b[:0], item)))
	case asIs:
		if b, ok := any(item).([]byte); ok {
			return s.stream.Send(ctx, b)
		}
	}
	b := getScratch()
	var err error
	if b.b, err = Marshal(s.codec, b.b, item); err == nil {
		if s.form == attached {
			err = s.sendAttached(ctx, b.b, item)
		} else {
			err = s.stream.Send(ctx, b.b)
		}
	} else {
		err = Errorf(CodeInvalidArgument, "encode an item of %q: %w", s.method, err)
	}
	putScratch(b)
	return err
}

// Claim returns n bytes to build an item in, which Commit then sends, so that it is not
// copied. It is for items that are encoded already: those of the codec [Raw]. What the bytes
// hold at first is undefined. Claim waits as Send does. It panics if n is negative.
//
// Until Commit, which has to follow, other senders of this stream wait; where building the item
// fails, commit with a negative n. With shared memory an
// item of a few KiB or more may lie where the peer sees it at once, and then all senders of
// the link wait. So be quick, and use the link for nothing else.
func (s *Sender[T]) Claim(ctx context.Context, n int) ([]byte, error) { return s.stream.Claim(ctx, n) }

// Commit sends the first n bytes of what Claim has returned, or nothing if n is negative. It
// panics if n is more than was claimed, or nothing was. Its errors are those of Send.
func (s *Sender[T]) Commit(ctx context.Context, n int) error { return s.stream.Commit(ctx, n) }

// SendPart sends at once an item that has the first n bytes of b: all of b if that is small, and
// as many as the peer takes in one item if not, 64 KiB at most. So a large b takes several calls,
// and what was sent is known if ctx ends meanwhile. It is for items that are encoded already:
// those of the codec [Raw]. SendPart waits as Send does, and has its errors; with an error nothing
// of b was sent, and unless the stream has ended it goes on. An empty b is an empty item.
func (s *Sender[T]) SendPart(ctx context.Context, b []byte) (n int, err error) {
	return SendPart(ctx, s.stream, b)
}

// CloseSend says that there will be no further item, after those that were sent: the other side
// receives io.EOF after them. It waits as Send does. A handler may go on receiving. Where a
// handler has returned already CloseSend does nothing.
func (s *Sender[T]) CloseSend(ctx context.Context) error { return s.stream.CloseSend(ctx) }

// Flush sends at once what was sent and waits to travel with later items.
func (s *Sender[T]) Flush(ctx context.Context) error { return s.stream.Flush(ctx) }

// Receiver receives the items of one direction of a stream. One goroutine at a time may use
// it.
type Receiver[T any] struct {
	stream Stream
	codec  Codec
	form   form
	method string
}

// NewReceiver returns a receiver of a stream for a method of this name. It is for packages that
// serve streams.
func NewReceiver[T any](s Stream, c Codec, method string) *Receiver[T] {
	return &Receiver[T]{s, c, formOf[T](c), method}
}

// Receive returns the next item. After the last one it returns io.EOF, if the other side has
// ended without an error. An item of type []byte with the codec [Raw] is valid until the
// next call. With the codecs Raw and [Fixed] Receive allocates nothing.
//
// Receive waits until ctx or the stream ends. Its errors are those of [Method.Call]; what the
// other side had sent before an error is received first. An item that cannot be decoded ends
// the stream.
func (r *Receiver[T]) Receive(ctx context.Context) (item T, err error) {
	b, err := r.stream.Receive(ctx)
	if err != nil {
		return item, err
	}
	switch r.form {
	case asIs:
		if item, ok := any(b).(T); ok {
			return item, nil
		}
	case memory:
		if item, err = decodeFixed[T](b); err == nil {
			return item, nil
		}
		return item, r.notDecoded(err)
	}
	if r.form == attached {
		item, err = r.decodeAttached(b)
	} else {
		item, err = Unmarshal[T](r.codec, b)
	}
	if err != nil {
		return item, r.notDecoded(err)
	}
	return item, nil
}

// ReceiveInto is Receive, except that it puts the item into *item and uses the memory of that
// again where it can, as [Method.CallInto] does.
func (r *Receiver[T]) ReceiveInto(ctx context.Context, item *T) error {
	if r.form != encoded {
		next, err := r.Receive(ctx)
		if err != nil {
			return err
		}
		if raw, ok := any(item).(*[]byte); ok {
			*raw = append((*raw)[:0], any(next).([]byte)...)
			return nil
		}
		*item = next
		return nil
	}
	b, err := r.stream.Receive(ctx)
	if err != nil {
		return err
	}
	if err := r.codec.Decode(b, item); err != nil {
		return r.notDecoded(err)
	}
	return nil
}

func (r *Receiver[T]) notDecoded(err error) error {
	if st, ok := r.stream.(AttachedStream); ok {
		st.Attachments().Release()
	}
	r.stream.Close()
	code := CodeInternal
	if CodeOf(err) == CodeResourceExhausted {
		code = CodeResourceExhausted
	}
	return Errorf(code, "decode an item of %q: %w", r.method, err)
}

// Widen lets the other side send n bytes of items that nobody has read, where that is more than the
// window of the stream, which begins with 8 KiB and grows by itself while items are read. It does nothing if n
// is more than the windows of this side may have (docs/streams.md), but for n beyond the
// largest window: then it is that. It belongs to whoever receives, and waits at most until ctx ends.
// An interceptor that wraps the stream may keep it from doing anything.
func (r *Receiver[T]) Widen(ctx context.Context, n int) {
	if s, ok := r.stream.(WideStream); ok {
		s.Widen(ctx, n)
	}
}

// All returns the items that Receive would return. If the stream fails the last element is an
// error. Leaving the loop leaves the stream as it is.
func (r *Receiver[T]) All(ctx context.Context) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			item, err := r.Receive(ctx)
			if err == io.EOF {
				return
			}
			if !yield(item, err) || err != nil {
				return
			}
		}
	}
}
