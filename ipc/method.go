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
	// Invoke sends an encoded request and waits for the encoded response.
	// [Method.Call] does this with types.
	Invoke(ctx context.Context, call Invocation) ([]byte, error)
	// Codec is the codec of methods that do not choose one.
	Codec() Codec
}

// Invocation is one call, encoded.
type Invocation struct {
	// Method is what to call.
	Method MethodInfo
	// Request is the encoded request. It has been sent or copied when Invoke returns.
	Request []byte
	// Response is memory that Invoke takes over, and may put the response into. The
	// response may also be in other memory. What Invoke returns belongs to the caller.
	Response []byte
	// OneWay: there will be no response; Invoke returns when the request is sent.
	OneWay bool
	// Timeout bounds the call. 0 means that nothing bounds it, and [DefaultTimeout]
	// that the timeout of the caller does.
	Timeout time.Duration
	// Attempts is how often the request may be sent in all, if workers end before
	// they answer; 0 means as often as the caller sends any request. Only a request
	// that is Idempotent is sent again.
	Attempts int
	// Idempotent: running the request more than once does what running it once does.
	Idempotent bool
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
	info       MethodInfo
	codec      Codec // nil: that of the link
	raw        bool  // both types are []byte
	idempotent bool
	bounded    []Codec // CBOR and JSON with the method's own bound, if it has one
	callOptions
}

// MethodOption is an option of [NewMethod].
type MethodOption interface{ applyMethod(*methodOptions) }

// CallOption is an option of [Method.Call].
type CallOption interface{ applyCall(*callOptions) }

type methodOptions struct {
	codec      Codec
	idempotent bool
	maxDecoded int
	callOptions
}

// callOptions are what a call can choose for itself.
type callOptions struct {
	timeout  time.Duration
	attempts int
}

type timeoutOption time.Duration

func (l timeoutOption) applyMethod(o *methodOptions) { o.timeout = time.Duration(l) }
func (l timeoutOption) applyCall(o *callOptions)     { o.timeout = time.Duration(l) }

// WithTimeout bounds how long each call of a method takes, or one call; 0 means that no
// timeout does. The timeout of a call takes precedence over that of its method, and
// that over the client's.
//
// The time counts from the beginning of the call, whatever it waits for: a place in a
// pool, room to send, the next process, the answer. A call that takes longer fails
// with a [*TimeoutError], and the context of its handler ends. For a notification the
// timeout bounds how long sending takes.
//
// WithTimeout panics if d is negative.
func WithTimeout(d time.Duration) interface {
	MethodOption
	CallOption
} {
	if d < 0 {
		panic(fmt.Sprintf("tandem: negative timeout %v", d))
	}
	return timeoutOption(d)
}

type attemptsOption int

func (n attemptsOption) applyMethod(o *methodOptions) { o.attempts = int(n) }
func (n attemptsOption) applyCall(o *callOptions)     { o.attempts = int(n) }

// WithAttempts sets how often each request of a method, or that of one call, may be sent
// in all, if workers end before they answer; 1 means once. The attempts of a call take
// precedence over those of its method, and those over the client's.
//
// They matter only for methods that are declared [WithIdempotent], and only where there
// is another worker to send to: in a pool, or with a client that starts its worker
// again. WithAttempts panics if n is less than 1.
func WithAttempts(n int) interface {
	MethodOption
	CallOption
} {
	if n < 1 {
		panic(fmt.Sprintf("tandem: %d attempts, need at least 1", n))
	}
	return attemptsOption(n)
}

type idempotentOption struct{}

func (idempotentOption) applyMethod(o *methodOptions) { o.idempotent = true }

// WithIdempotent declares that running a request of the method several times does the
// same as running it once. Only such a request may be sent again when a worker has
// ended and nobody knows whether it has run the request.
func WithIdempotent() MethodOption { return idempotentOption{} }

type codecOption struct{ codec Codec }

func (c codecOption) applyMethod(o *methodOptions) { o.codec = c.codec }

// WithCodec makes a method use one codec on every link. The codec is part of the
// method's id, so host and worker have to choose the same. It panics if c is nil.
func WithCodec(c Codec) MethodOption {
	if c == nil {
		panic("tandem: WithCodec(nil)")
	}
	return codecOption{c}
}

// NewMethod declares a method. It panics if name is empty, or if the method's codec
// cannot carry its types: [Raw] carries only []byte, [Fixed] only types without pointers,
// and the others, one of which a method uses that chooses none, only types that can travel:
// see [CBOR]. The panic names the part of the type that is the reason.
func NewMethod[Req, Res any](name string, opts ...MethodOption) *Method[Req, Res] {
	if name == "" {
		panic("tandem: method without a name")
	}
	o := methodOptions{callOptions: callOptions{timeout: DefaultTimeout}}
	for _, opt := range opts {
		opt.applyMethod(&o)
	}
	m := &Method[Req, Res]{info: MethodInfo{Name: name}, codec: o.codec, idempotent: o.idempotent, callOptions: o.callOptions, raw: isRaw[Req, Res]()}
	if o.codec == nil || o.codec == CBOR || o.codec == JSON {
		for _, t := range []reflect.Type{reflect.TypeFor[Req](), reflect.TypeFor[Res]()} {
			if err := checkTravels(t, o.codec == JSON); err != nil {
				panic(fmt.Sprintf("tandem: method %q: %v", name, err))
			}
		}
	}
	if o.maxDecoded > 0 {
		m.bounded = []Codec{cborCodec{o.maxDecoded}, jsonCodec{o.maxDecoded}}
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	if o.codec != nil {
		h.Write([]byte("\x00" + o.codec.Name()))
		if o.codec == Raw && !m.raw {
			panic(fmt.Sprintf("tandem: method %q: codec raw carries []byte, not %T and %T", name, *new(Req), *new(Res)))
		}
		if o.codec == Fixed {
			for _, t := range []reflect.Type{reflect.TypeFor[Req](), reflect.TypeFor[Res]()} {
				layout, err := fixedLayout(t)
				if err != nil {
					panic(fmt.Sprintf("tandem: method %q: %v", name, err))
				}
				h.Write([]byte("\x00" + layout))
			}
		}
	}
	m.info.ID = max(h.Sum64(), 1)
	return m
}

func isRaw[Req, Res any]() bool {
	_, req := any((*Req)(nil)).(*[]byte)
	_, res := any((*Res)(nil)).(*[]byte)
	return req && res
}

// Info returns the method's name and id.
func (m *Method[Req, Res]) Info() MethodInfo { return m.info }

// Codec returns the codec that the method uses on a link whose codec is link.
func (m *Method[Req, Res]) Codec(link Codec) Codec {
	if m.codec != nil {
		link = m.codec
	}
	for _, c := range m.bounded {
		if (link == CBOR || link == JSON) && c.Name() == link.Name() {
			return c
		}
	}
	return link
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
	var inv Invocation
	codec, in, err := m.encode(ctx, &inv, c, req, opts)
	if err != nil {
		return res, err
	}
	if codec == Raw && m.raw {
		b, err := c.Invoke(ctx, inv)
		res, _ = any(b).(Res)
		return res, err
	}
	out := getBuffer()
	defer putBuffer(in)
	defer putBuffer(out)
	if err = out.invoke(ctx, c, &inv); err != nil {
		return res, err
	}
	if res, err = Unmarshal[Res](codec, out.b); err != nil {
		return res, notDecoded(m.info.Name, err)
	}
	return res, nil
}

// CallInto is [Method.Call], except that it puts the result into *res and uses the
// memory of *res again where it can. With the codecs Raw and Fixed a call then allocates
// nothing. CallInto takes over the memory of a []byte in *res, from its beginning to its
// capacity, so nothing else may refer to it. With CBOR and JSON, what was in *res and does not come
// stays there: entries of maps, fields that the other side left out. If the call fails *res is undefined.
func (m *Method[Req, Res]) CallInto(ctx context.Context, c Caller, req Req, res *Res, opts ...CallOption) error {
	var inv Invocation
	codec, in, err := m.encode(ctx, &inv, c, req, opts)
	if err != nil {
		return err
	}
	if codec == Raw && m.raw {
		out := any(res).(*[]byte)
		inv.Response = (*out)[:0]
		*out, err = c.Invoke(ctx, inv)
		return err
	}
	out := getBuffer()
	defer putBuffer(in)
	defer putBuffer(out)
	if err = out.invoke(ctx, c, &inv); err != nil {
		return err
	}
	if codec == Fixed {
		*res, err = decodeFixed[Res](out.b)
	} else {
		err = codec.Decode(out.b, res)
	}
	if err != nil {
		return notDecoded(m.info.Name, err)
	}
	return nil
}

// encode makes inv the call of req, and panics if ctx or c is nil. in holds the encoded request until it has been
// sent; it is nil if req is sent as it is, without a copy.
func (m *Method[Req, Res]) encode(ctx context.Context, inv *Invocation, c Caller, req Req, opts []CallOption) (codec Codec, in *buffer, err error) {
	switch {
	case ctx == nil:
		panic(fmt.Sprintf("tandem: call of %q with a nil context", m.info.Name))
	case c == nil:
		panic(fmt.Sprintf("tandem: call of %q with a nil caller", m.info.Name))
	}
	inv.Method, inv.Idempotent = m.info, m.idempotent
	inv.Timeout, inv.Attempts = m.timeout, m.attempts
	if len(opts) > 0 {
		o := m.callOptions.with(opts)
		inv.Timeout, inv.Attempts = o.timeout, o.attempts
	}
	codec = m.Codec(c.Codec())
	if codec == Raw {
		if b, ok := any(req).([]byte); ok {
			inv.Request = b
			return codec, nil, nil
		}
	}
	in = getBuffer()
	if in.b, err = Marshal(codec, in.b, req); err != nil {
		putBuffer(in)
		return codec, nil, Errorf(CodeInvalidArgument, "encode the request of %q: %w", m.info.Name, err)
	}
	inv.Request = in.b
	return codec, in, nil
}

// invoke makes a call and leaves the encoded response in out.
func (out *buffer) invoke(ctx context.Context, c Caller, inv *Invocation) error {
	inv.Response = out.b
	response, err := c.Invoke(ctx, *inv)
	if err == nil {
		out.b = response
	}
	return err
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
	var inv Invocation
	_, in, err := m.encode(ctx, &inv, c, req, opts)
	if err != nil {
		return err
	}
	inv.OneWay = true
	_, err = c.Invoke(ctx, inv)
	if in != nil {
		putBuffer(in)
	}
	return err
}

func (o callOptions) with(opts []CallOption) callOptions {
	for _, opt := range opts {
		opt.applyCall(&o)
	}
	return o
}
