package ipc

import (
	"fmt"
	"reflect"
)

// A Topic is what one process publishes and any number of processes subscribe to: records of type
// T. All sides declare it alike. It is immutable and safe for concurrent use.
//
//	var Quotes = ipc.NewTopic[Quote]("market.quotes")
//
//	pub, err := Quotes.Publisher(server)
//	err = pub.Publish(ctx, quote)
//
//	for quote, err := range Quotes.Subscribe(ctx, client) { ... }
//
// Any side of a link publishes, and the other one subscribes. Records are numbered, and each
// subscriber gets those that are published while it is subscribed, in order. What it does not get it
// is told of, by a [*LostError] that says how many those were. docs/topics.md says what is lost, told and kept in
// which case.
type Topic[T any] struct {
	declaration
	key func(T) any // of LatestBy, or nil
}

// NewTopic declares a topic. Its codec is [CBOR] unless [WithCodec] chooses another one; it is part of
// what the two sides have to agree on, whatever the codec of a link is. A topic may have the name of
// a method. NewTopic panics as [NewMethod] does, if T has buffers or files ([Buffer], [File], [Handle]),
// since each of them is for one receiver, and if the function of [LatestBy] is for another type.
func NewTopic[T any](name string, opts ...TopicOption) *Topic[T] {
	var o topicOptions
	o.codec = CBOR
	for _, opt := range opts {
		opt.applyTopic(&o)
	}
	typ := reflect.TypeFor[T]()
	t := new(Topic[T])
	t.declareWith(name, "topic", o.methodOptions, typ)
	t.codec = t.Codec(nil) // with its bound
	if t.carries {
		panic(fmt.Sprintf("tandem: topic %q: %v has a Buffer, a File or a Handle, which is for one receiver: publish a value", name, typ))
	}
	if o.key != nil {
		key, ok := o.key.(func(T) any)
		if !ok {
			panic(fmt.Sprintf("tandem: topic %q: the function of LatestBy takes a %v, and the records are of type %v", name, o.keyed, typ))
		}
		t.key = key
	}
	return t
}

// Key returns the function of [LatestBy], or nil. It is for what keeps the records of a topic elsewhere.
func (t *Topic[T]) Key() func(T) any { return t.key }

// TopicOption is an option of [NewTopic]: [LatestBy], [WithCodec], [WithMaxDecoded].
type TopicOption interface{ applyTopic(*topicOptions) }

type topicOptions struct {
	methodOptions
	key   any          // a func(T) any
	keyed reflect.Type // the T
}

func (c codecOption) applyTopic(o *topicOptions)      { c.applyMethod(&o.methodOptions) }
func (n maxDecodedOption) applyTopic(o *topicOptions) { n.applyMethod(&o.methodOptions) }

type keyOption topicOptions

func (k keyOption) applyTopic(o *topicOptions) { o.key, o.keyed = k.key, k.keyed }

// LatestBy makes the publisher of a topic keep the latest record of each key, for subscribers that begin
// [FromLatest]. key is called once for each record, before Publish returns. The publisher's memory grows with the number
// of different keys; there is no way to forget one. LatestBy panics if key is nil.
func LatestBy[T any, K comparable](key func(T) K) TopicOption {
	if key == nil {
		panic("tandem: LatestBy(nil)")
	}
	return keyOption{key: func(v T) any { return key(v) }, keyed: reflect.TypeFor[T]()}
}
