package ipc

import (
	"context"
	"fmt"
	"hash/fnv"
	"reflect"
	"time"
)

// Caller calls methods of a worker, or of a host from within a worker. Clients and
// pools are Callers. A function that works with any of them takes this interface. A
// Caller is safe for concurrent use.
type Caller interface {
	// Invoke sends an encoded request and waits for the encoded response. [Method.Call]
	// does this with types.
	//
	// request has been sent or copied when Invoke returns, and call is not used any more.
	// Invoke takes over memory, which is empty, and may put the response there, or into other memory. What it returns belongs to the
	// caller.
	Invoke(ctx context.Context, call *Invocation, request, memory []byte) ([]byte, error)
	// Codec is the codec of methods that do not choose one.
	Codec() Codec
}

// Invocation says what a call is to be, beside its request. Calls that have no options of
// their own share that of their method, so nobody may change one.
type Invocation struct {
	// Method is what to call.
	Method MethodInfo
	// OneWay: there will be no response; Invoke returns when the request is sent.
	OneWay bool
	// Idempotent: running the request more than once does what running it once does.
	Idempotent bool
	// Owned: nobody else uses the request, so whoever answers the call may keep it, and
	// need not copy it for a handler that wants bytes. A Caller that passes calls on, and
	// may make one more than once, has to clear it.
	Owned bool
	// Timeout bounds the call. 0 means that nothing bounds it, and [DefaultTimeout]
	// that the timeout of the caller does.
	Timeout time.Duration
	// Attempts is how often the request may be sent in all, if workers end before
	// they answer; 0 means as often as the caller sends any request. Only a request
	// that is Idempotent is sent again.
	Attempts int
	// Attempt is which attempt of a call this is, from 1, if it is one of several that a
	// caller such as a pool makes itself, and otherwise 0. Interceptors see it.
	Attempt int
	// Metadata goes with the request. See [WithMetadata].
	Metadata Metadata
	// Attached are the buffers and files that the request has, or nil. They stay the caller's.
	Attached *Attachments
	// Received, if it is not nil, is where those of the answer go, as with Header. They are the
	// caller's then. Where it is nil they are released.
	Received *Attachments
	// Header and Trailer, if they are not nil, are where the metadata of the answer goes,
	// before Invoke, or Wait of a [Pending], returns. See [WithHeader].
	Header, Trailer *Metadata
}

// DefaultTimeout stands, as the Timeout of an [Invocation], for the timeout that its caller
// has for all calls.
const DefaultTimeout time.Duration = -1

// MethodInfo names a method.
type MethodInfo struct {
	// Name is the name that was given to NewMethod.
	Name string
	// ID stands for the method in frames: FNV-1a, 64 bits, of the name, of the
	// codec where the method chooses one, and of the layout of both types where
	// the codec is Fixed. It is never 0.
	ID uint64
}

// Method is a method that takes a Req and returns a Res. Host and worker
// declare it alike, best in a package that both import. It is immutable and
// safe for concurrent use.
type Method[Req, Res any] struct {
	declaration
	raw bool // both types are []byte

	// Of notifications that have no options of their own.
	notification Invocation
}

// NewMethod declares a method. It panics if name is empty, or if the method's codec
// cannot carry its types: [Raw] carries only []byte, [Fixed] only types without pointers, a
// [TypeChecker] what it says, and CBOR and JSON, one of which a method uses that chooses
// none, only types that can travel: see [CBOR]. The panic names the part of the type that
// is the reason.
func NewMethod[Req, Res any](name string, opts ...MethodOption) *Method[Req, Res] {
	m := &Method[Req, Res]{raw: isRaw[Req, Res]()}
	m.declare(name, "", opts, reflect.TypeFor[Req](), reflect.TypeFor[Res]())
	m.notification = m.call
	m.notification.OneWay = true
	return m
}

// declaration is what methods and streams have in common.
type declaration struct {
	codec Codec // nil: that of the link
	// bounded are CBOR and JSON with the method's own bound, if it has one.
	bounded []Codec
	// call is the invocation of calls that have no options of their own.
	call Invocation
	// carries says that messages may have attachments.
	carries bool
}

// declare makes d the declaration of a method of these types, or of a stream of some kind. It
// panics as [NewMethod] does.
func (d *declaration) declare(name, kind string, opts []MethodOption, types ...reflect.Type) {
	o := methodOptions{callOptions: callOptions{timeout: DefaultTimeout}}
	for _, opt := range opts {
		opt.applyMethod(&o)
	}
	d.declareWith(name, kind, o, types...)
}

// declareWith is declare with what the options have set.
func (d *declaration) declareWith(name, kind string, o methodOptions, types ...reflect.Type) {
	if name == "" {
		panic("tandem: method without a name")
	}
	d.codec = o.codec
	for _, t := range types {
		if err := checkCarries(o.codec, t); err != nil {
			panic(fmt.Sprintf("tandem: method %q: %v", name, err))
		}
	}
	if c, ok := o.codec.(Bounder); ok && o.maxDecoded > 0 {
		d.codec = c.Bounded(o.maxDecoded)
	}
	if o.maxDecoded > 0 {
		d.bounded = []Codec{cborCodec{o.maxDecoded}, jsonCodec{o.maxDecoded}}
	}
	for _, t := range types {
		d.carries = d.carries || Carries(t)
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	if kind != "" {
		h.Write([]byte("\x00\x00" + kind))
	}
	if o.codec != nil {
		h.Write([]byte("\x00" + o.codec.Name()))
	}
	if o.codec == Raw {
		for _, t := range types {
			if Carries(t) { // which is a number, where it would be bytes
				h.Write([]byte("\x00" + t.Name()))
			}
		}
	}
	if o.codec == Fixed {
		for _, t := range types {
			layout, _ := fixedLayout(t) // checkCarries has seen it
			h.Write([]byte("\x00" + layout))
		}
	}
	d.call = Invocation{
		Method: MethodInfo{Name: name, ID: max(h.Sum64(), 1)}, Timeout: o.timeout, Attempts: o.attempts, Idempotent: o.idempotent,
	}
}

// checkCarries returns an error if a codec, nil for that of the link, cannot carry a type.
func checkCarries(codec Codec, t reflect.Type) error {
	switch codec {
	case nil, CBOR, JSON:
		return checkTravels(t, codec == JSON)
	case Raw:
		if t != reflect.TypeFor[[]byte]() && t != bufferType && t != fileType {
			return fmt.Errorf("codec raw carries []byte, Buffer and File, not %v", t)
		}
	case Fixed:
		_, err := fixedLayout(t)
		return err
	}
	if c, ok := codec.(TypeChecker); ok {
		return c.CheckType(t)
	}
	return nil
}

// Info returns the method's name and id.
func (d *declaration) Info() MethodInfo { return d.call.Method }

// Codec returns the codec that the method uses on a link whose codec is link.
func (d *declaration) Codec(link Codec) Codec {
	if d.codec != nil {
		link = d.codec
	}
	for _, c := range d.bounded {
		if (link == CBOR || link == JSON) && c.Name() == link.Name() {
			return c
		}
	}
	return link
}

// check panics if ctx or c is nil.
func (d *declaration) check(ctx context.Context, c Caller) {
	switch {
	case ctx == nil:
		panic(fmt.Sprintf("tandem: call of %q with a nil context", d.call.Method.Name))
	case c == nil:
		panic(fmt.Sprintf("tandem: call of %q with a nil caller", d.call.Method.Name))
	}
}

func isRaw[Req, Res any]() bool {
	_, req := any((*Req)(nil)).(*[]byte)
	_, res := any((*Res)(nil)).(*[]byte)
	return req && res
}

// Call calls the method and waits for its result. If it fails it returns
//
//   - an [*Error] with Remote() true, when the handler failed;
//   - an [*ExitError], or an error that wraps [ErrPeerGone] or [ErrDisconnected],
//     when the worker or the connection ended before the answer came;
//   - [ErrClosed], ctx.Err() or a [*TimeoutError], when this side gave up;
//   - a [*SizeError] or an [*Error] with Remote() false, when the request was
//     not sent because it is too large or cannot be encoded.
//
// Call waits while the receiver has as many requests as it takes.
func (m *Method[Req, Res]) Call(ctx context.Context, c Caller, req Req, opts ...CallOption) (res Res, err error) {
	m.check(ctx, c)
	codec := m.Codec(c.Codec())
	call := m.call.with(opts)
	if codec == Raw && m.raw {
		b, err := c.Invoke(ctx, call, any(req).([]byte), nil)
		res, _ = any(b).(Res)
		return res, err
	}
	if m.carries {
		return m.callAttached(ctx, c, call, codec, req)
	}
	out := getScratch()
	defer putScratch(out)
	if err = m.exchange(ctx, c, call, codec, req, out); err != nil {
		return res, err
	}
	if res, err = Unmarshal[Res](codec, out.b); err != nil {
		return res, notDecoded(m.call.Method.Name, err)
	}
	return res, nil
}

// CallInto is [Method.Call], except that it puts the result into *res and uses the
// memory of *res again where it can. With the codecs Raw and Fixed a call then allocates
// nothing. CallInto takes over the memory of a []byte in *res, from its beginning to its
// capacity, so nothing else may refer to it. With CBOR and JSON, what was in *res and does not come
// stays there: entries of maps, fields that the other side left out. If the call fails *res is undefined.
func (m *Method[Req, Res]) CallInto(ctx context.Context, c Caller, req Req, res *Res, opts ...CallOption) (err error) {
	m.check(ctx, c)
	codec := m.Codec(c.Codec())
	call := m.call.with(opts)
	if codec == Raw && m.raw {
		out := any(res).(*[]byte)
		*out, err = c.Invoke(ctx, call, any(req).([]byte), (*out)[:0])
		return err
	}
	if m.carries {
		*res, err = m.callAttached(ctx, c, call, codec, req)
		return err
	}
	out := getScratch()
	defer putScratch(out)
	if err = m.exchange(ctx, c, call, codec, req, out); err != nil {
		return err
	}
	if codec == Fixed {
		*res, err = decodeFixed[Res](out.b)
	} else {
		err = codec.Decode(out.b, res)
	}
	if err != nil {
		return notDecoded(m.call.Method.Name, err)
	}
	return nil
}

// exchange makes a call of req, and leaves the encoded response in out.
func (m *Method[Req, Res]) exchange(ctx context.Context, c Caller, call *Invocation, codec Codec, req Req, out *scratch) error {
	request, in, err := m.encode(codec, req)
	if err != nil {
		return err
	}
	memory := out.b
	out.b = nil // it is the caller's now, also if the call fails
	response, err := c.Invoke(ctx, call, request, memory)
	putScratch(in)
	if err == nil {
		out.b = response
	}
	return err
}

// encode encodes req, into the memory of in. That is nil if req is sent as it is, without
// a copy.
func (m *Method[Req, Res]) encode(codec Codec, req Req) (request []byte, in *scratch, err error) {
	if codec == Raw {
		if b, ok := any(req).([]byte); ok {
			return b, nil, nil
		}
	}
	in = getScratch()
	if in.b, err = Marshal(codec, in.b, req); err != nil {
		putScratch(in)
		return nil, nil, Errorf(CodeInvalidArgument, "encode the request of %q: %w", m.call.Method.Name, err)
	}
	return in.b, in, nil
}

// notDecoded is the error of a response to a call of method that could not be decoded.
func notDecoded(method string, err error) error {
	code := CodeInternal
	if CodeOf(err) == CodeResourceExhausted {
		code = CodeResourceExhausted
	}
	return Errorf(code, "decode the response of %q: %w", method, err)
}

// Notify sends a request without an answer, and returns when it was sent. The sender does
// not learn whether the handler ran or failed.
//
// Notify waits while the receiver has as many notifications as it takes, within ctx and
// the timeout. It returns an error, as [Method.Call] does, only if the request could not
// be sent.
//
// The handler of a client's worker gets notifications in the order in which one goroutine
// sent them, one at a time, unless it is declared with worker.WithConcurrency.
func (m *Method[Req, Res]) Notify(ctx context.Context, c Caller, req Req, opts ...CallOption) error {
	m.check(ctx, c)
	request, in, err := m.encode(m.Codec(c.Codec()), req)
	if err != nil {
		return err
	}
	call := m.notification.with(opts)
	if m.carries {
		own, err := newAttachedCall(call, req)
		if err != nil {
			putScratch(in)
			return err
		}
		own.Received, call = nil, &own.Invocation
	}
	_, err = c.Invoke(ctx, call, request, nil)
	putScratch(in)
	return err
}
