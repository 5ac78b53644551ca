package ipc

import (
	"context"
	"slices"
)

// StreamRegistrar is what takes handlers of streams of encoded items: servers, clients, pools and Handlers of
// package worker are StreamRegistrars.
type StreamRegistrar interface {
	// RegisterStream makes serve serve the streams that are opened for a method, each in a
	// goroutine of its own, until remove is called; those that run then go on. ctx ends when the
	// other side gives the stream up, or the link ends. draining, which may be nil, is closed when
	// this side waits for serve to return before it ends. What serve has sent arrives before the
	// error that it returns. RegisterStream panics if the method has a handler already.
	RegisterStream(m MethodInfo, serve func(ctx context.Context, st Stream, draining <-chan struct{}) error) (remove func())
}

// A Publisher publishes the records of a topic to those who subscribe to it. Any goroutine may use it.
//
// It keeps one encoded copy of each record, whatever the number of subscribers, in memory that is
// bounded by [Keep] and [KeepBytes], and by [LatestBy]. With a driver that shares memory another
// copy goes to a ring of at least KeepBytes that all such subscribers read. Every other subscriber
// has a goroutine here that sends what is kept. So one that is slow, stopped or dead holds up no
// other one, and when it is gone nothing of it is left.
type Publisher[T any] struct {
	topic *Topic[T]
	feed  *topicFeed
}

// Publisher makes r, a server, a client, a pool or a set of handlers, take subscriptions to the
// topic. It panics if r has a publisher of the topic already that was not closed, and if r is nil.
func (t *Topic[T]) Publisher(r StreamRegistrar, opts ...PublisherOption) (*Publisher[T], error) {
	if r == nil {
		panic("tandem: Publisher with nothing that takes handlers")
	}
	o := publisherOptions{keep: defaultKeep, keepBytes: defaultKeepBytes}
	for _, opt := range opts {
		opt(&o)
	}
	f := newTopicFeed(t.Info().Name, &o, t.key != nil)
	f.remove = r.RegisterStream(t.Info(), f.serve)
	return &Publisher[T]{t, f}, nil
}

// Publish publishes one record, of which it keeps nothing. It does not wait for subscribers, except
// for [Reliable] ones, where the publisher takes them ([CutOffAfter]): until ctx ends, and then the
// record is not published. Records of one goroutine have the order in which it has published them.
//
// The error is [ErrClosed] after Close, ctx.Err(), or an [*Error]: of CodeInvalidArgument if the
// record cannot be encoded, and of CodeResourceExhausted if it is larger than half of [KeepBytes].
// A record that is larger than a subscriber's stream takes (worker.WithMaxMessage) ends that
// subscription with an error of CodeResourceExhausted.
func (p *Publisher[T]) Publish(ctx context.Context, v T) error {
	b, err := p.encode(v)
	if err != nil {
		return err
	}
	if n := len(b) - recordHeader; n > p.feed.largest {
		return Errorf(CodeResourceExhausted, "tandem: a record of %d bytes of topic %q, largest allowed %d: see ipc.KeepBytes", n, p.topic.Info().Name, p.feed.largest)
	}
	var key any
	if p.topic.key != nil {
		key = p.topic.key(v)
	}
	return p.feed.publish(ctx, b, key)
}

// encode encodes a record, with room for its number.
func (p *Publisher[T]) encode(v T) ([]byte, error) {
	s := getScratch()
	defer putScratch(s)
	b, err := Marshal(p.topic.codec, append(s.b[:0], make([]byte, recordHeader)...), v)
	if err != nil {
		return nil, Errorf(CodeInvalidArgument, "encode a record of %q: %w", p.topic.Info().Name, err)
	}
	s.b = b
	return slices.Clone(b), nil
}

// Close takes no further records. The sequences of all subscribers end, without an error, after the
// records that were published, and the topic may get another publisher at once. Close does not wait
// for that: worker.Server.Serve and Close of a client do, within their grace. Closing again does
// nothing.
func (p *Publisher[T]) Close() error {
	p.feed.close()
	return nil
}

// PublisherStats is what a [Publisher] has done, and what its subscribers do.
type PublisherStats struct {
	// Subscribers is how many there are now, and Reliable how many of them are [Reliable].
	Subscribers, Reliable int
	// SharedMemory is how many subscribers read memory that they share with this process. The others get a
	// stream each.
	SharedMemory int
	// Published is how many records were published, and Kept how many of them are kept, with so many bytes.
	Published       uint64
	Kept, KeptBytes int
	// Keys is how many records are kept for [FromLatest].
	Keys int
	// CutOff is how many subscribers were cut off.
	CutOff uint64
	// Lost is how many records subscribers have missed in all, as they are told. A record that two have missed
	// counts twice.
	Lost uint64
	// Lag is how many records the slowest subscriber with a stream is behind: that were published,
	// and that are not on their way to it. LagBytes is how many bytes the slowest one that is
	// behind with shared memory is, by what it says: it is exact to an eighth of [KeepBytes].
	Lag, LagBytes uint64
}

// Stats returns what the publisher has done so far.
func (p *Publisher[T]) Stats() PublisherStats { return p.feed.stats() }
