package ipc

import (
	"fmt"
	"slices"
	"time"
)

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
	timeout         time.Duration
	attempts        int
	metadata        Metadata
	header, trailer *Metadata
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

// WithCodec makes a method, or a topic, use one codec on every link. The codec is part of the
// method's id, so host and worker have to choose the same. It panics if c is nil.
func WithCodec(c Codec) interface {
	MethodOption
	TopicOption
} {
	if c == nil {
		panic("tandem: WithCodec(nil)")
	}
	return codecOption{c}
}

type metadataOption Metadata

func (m metadataOption) applyCall(o *callOptions) {
	if o.metadata == nil {
		o.metadata = Metadata(m)
		return
	}
	o.metadata = append(slices.Clip(o.metadata), m...)
}

// WithMetadata sends metadata with a request or a notification: alternating keys and
// values, which [Metadata] explains. The handler finds them with [MetadataOf]. What several
// of these options give adds up.
//
// A call with metadata that cannot be sent fails with the error of [Metadata.Check], and
// nothing is sent. The calls that a handler makes itself do not carry the metadata of its
// request, unless the handler, or an interceptor, passes it on.
//
// WithMetadata panics if the last key has no value.
func WithMetadata(keyValues ...string) interface {
	CallOption
	SubscribeOption
} {
	return metadataOption(Pairs(keyValues...))
}

type headerOption struct{ to *Metadata }

func (h headerOption) applyCall(o *callOptions) { o.header = h.to }

// WithHeader puts the header of the answer, which the handler has set with [SetHeader], into
// *to, replacing what was there, also if the answer is an error. If there is no answer, *to
// becomes empty. [Method.Go] does this in Wait. It panics if to is nil.
func WithHeader(to *Metadata) CallOption {
	if to == nil {
		panic("tandem: WithHeader(nil)")
	}
	return headerOption{to}
}

type trailerOption struct{ to *Metadata }

func (t trailerOption) applyCall(o *callOptions) { o.trailer = t.to }

// WithTrailer is [WithHeader] for the trailer, which the handler has set with [SetTrailer].
func WithTrailer(to *Metadata) CallOption {
	if to == nil {
		panic("tandem: WithTrailer(nil)")
	}
	return trailerOption{to}
}

// with returns the invocation of a call with these options.
func (inv *Invocation) with(opts []CallOption) *Invocation {
	if len(opts) == 0 {
		return inv
	}
	o := callOptions{timeout: inv.Timeout, attempts: inv.Attempts}
	for _, opt := range opts {
		opt.applyCall(&o)
	}
	own := *inv
	own.Timeout, own.Attempts = o.timeout, o.attempts
	own.Metadata, own.Header, own.Trailer = o.metadata, o.header, o.trailer
	if own.Header != nil {
		*own.Header = nil
	}
	if own.Trailer != nil {
		*own.Trailer = nil
	}
	return &own
}
