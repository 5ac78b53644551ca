package jetipc

import (
	"context"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/tandemipc/tandem/ipc"
)

// SubscribeOption is an option of [Open] and [Subscribe]. Without one a subscription begins with the next record that is
// published after Open has asked the server.
type SubscribeOption func(*subscribeOptions)

type subscribeOptions struct {
	from topicStart
	next uint64
}

type topicStart byte

const (
	fromNow topicStart = iota
	fromOldest
	fromLatest
	fromNumber
)

// FromOldest begins with the oldest record that the stream still has. What was published before that is not told as
// lost; what is missing behind it is, as the stream may have lost that at any time.
func FromOldest() SubscribeOption { return func(o *subscribeOptions) { o.from = fromOldest } }

// FromLatest begins with the latest record of each key, in the order in which they were published, and goes on with what is published
// after that: nothing is missing between the two, and nothing comes twice. The topic has to be declared with
// [ipc.LatestBy].
func FromLatest() SubscribeOption { return func(o *subscribeOptions) { o.from = fromLatest } }

// FromNumber begins with the record of this number, from 1, such as [Subscription.Number] and one more. What the stream has lost from there on is told.
// If the record before that is not published either, Open fails with CodeOutOfRange: the number is one of another stream, or of what was lost.
// A stream that was made anew since, and has come so far, Open cannot tell from the old one.
func FromNumber(n uint64) SubscribeOption {
	return func(o *subscribeOptions) { o.from, o.next = fromNumber, max(n, 1) }
}

// Subscribe subscribes to a topic that is kept in a JetStream stream, and returns the records, as [ipc.Topic.Subscribe] does: where the stream
// has lost records before they were received, by its limits or because it was purged, the sequence has an [*ipc.LostError] that says how many, and goes
// on. Any other error is the last element. Leaving the loop ends the subscription.
func Subscribe[T any](ctx context.Context, js natsjs.JetStream, subject string, topic *ipc.Topic[T], opts ...SubscribeOption) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		s, err := Open(ctx, js, subject, topic, opts...)
		if err != nil {
			yield(*new(T), err)
			return
		}
		defer s.Close()
		s.All(ctx)(yield)
	}
}

// Subscription is what [Open] returns. One goroutine at a time may receive; any may call Close and Stats.
//
// It has an ephemeral consumer, which it makes anew where it is when the server was away. Up to 256 records, of max_payload and 64 KiB together, are fetched
// at a time. The connection should have nats.ReconnectBufSize(-1).
type Subscription[T any] struct {
	js    natsjs.JetStream
	topic *ipc.Topic[T]
	codec ipc.Codec
	place topicPlace
	ctx   context.Context // ends with Close
	close context.CancelFunc

	same identity
	last struct { // the record that came last
		seq uint64
		at  time.Time
	}
	snapshot uint64 // while that is not 0: records up to here come first, the latest of each key
	next     uint64 // the number of the next record, if none is lost
	held     message
	holds    bool      // held has come, but those before it that are lost were told first
	making   chan made // what makes cons, while it does
	cons     *consumer
	batch    natsjs.MessageBatch
	endBatch context.CancelFunc
	came     bool // something has come with batch
	pace     pace

	number, received, lost atomic.Uint64
}

// Open subscribes to a topic, as [Subscribe] does, and returns when it is known with which record that begins. ctx is for Open alone.
func Open[T any](ctx context.Context, js natsjs.JetStream, subject string, topic *ipc.Topic[T], opts ...SubscribeOption) (*Subscription[T], error) {
	var o subscribeOptions
	for _, opt := range opts {
		opt(&o)
	}
	name, keyed := topic.Info().Name, topic.Key() != nil
	if o.from == fromLatest && !keyed {
		return nil, ipc.Errorf(ipc.CodeFailedPrecondition, "topic %q has no keys: see ipc.LatestBy", name)
	}
	place, _, err := findTopic(ctx, js, subject, name, keyed)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, place.stream)
	if err != nil {
		return nil, fmt.Errorf("tandem: jetstream: topic %q: %w", name, err)
	}
	state := stream.CachedInfo().State
	if o.next > state.LastSeq+1 {
		return nil, ipc.Errorf(ipc.CodeOutOfRange, "topic %q: the stream %q has come to record %d, and the subscription is to begin with %d", name, place.stream, state.LastSeq, o.next)
	}
	s := &Subscription[T]{js: js, topic: topic, codec: topic.Codec(nil), place: place, same: identity{js, place.stream, stream.CachedInfo().Created}}
	switch o.from {
	case fromNow:
		s.next = state.LastSeq + 1
	case fromOldest:
		s.next = max(state.FirstSeq, 1)
	case fromLatest:
		if s.next = state.LastSeq + 1; state.Msgs > 0 {
			s.snapshot = state.LastSeq
		}
	case fromNumber:
		s.next = o.next
	}
	s.ctx, s.close = context.WithCancel(context.Background())
	return s, nil
}

// Receive waits for the next record. It returns an [*ipc.LostError] in the place of those that are lost, and then goes on. Any other error is
// the end: [ipc.ErrClosed] after Close; one that wraps nats.ErrConnectionClosed, jetstream.ErrStreamNotFound, [ErrReplaced]; of
// CodeInternal if a record cannot be decoded. When ctx ends Receive returns its error, and may be called again.
// While the server is away it waits. Records of type []byte with the codec Raw are the caller's.
func (s *Subscription[T]) Receive(ctx context.Context) (v T, err error) {
	m, err := s.take(ctx)
	if err != nil {
		return v, err
	}
	s.number.Store(m.seq)
	s.received.Add(1)
	if v, err = decode[T](s.codec, m.Data()); err != nil {
		s.Close()
		return v, ipc.Errorf(ipc.CodeInternal, "record %d of %q: %w", m.seq, s.topic.Info().Name, err)
	}
	return v, nil
}

// take returns the next message, or that some are lost before it.
func (s *Subscription[T]) take(ctx context.Context) (m message, err error) {
	if s.ctx.Err() != nil {
		return m, ipc.ErrClosed
	}
	if s.holds {
		s.holds = false
		return s.held, nil
	}
	for {
		if m, err = s.fetched(ctx); err != nil {
			return m, err
		}
		switch {
		case s.snapshot > 0:
			last := s.snapshot
			if m.seq >= last { // what is behind last comes again, with what is before it
				s.live()
			}
			if m.seq <= last && m.seq > s.number.Load() { // or the consumer is another one
				s.last.seq, s.last.at = m.seq, m.at
				return m, nil
			}
			continue
		case m.seq == s.last.seq && m.at.Equal(s.last.at): // see consume
			continue
		case m.seq < s.next:
			s.Close()
			return m, s.failed(ErrReplaced)
		}
		s.last.seq, s.last.at = m.seq, m.at
		lost := m.seq - s.next
		if s.next = m.seq + 1; lost > 0 {
			s.held, s.holds = m, true
			s.lost.Add(lost)
			return m, &ipc.LostError{Topic: s.topic.Info().Name, Count: lost}
		}
		return m, nil
	}
}

// live ends the snapshot.
func (s *Subscription[T]) live() {
	s.snapshot = 0
	s.drop()
}

// failed says of which topic an error is.
func (s *Subscription[T]) failed(err error) error {
	return fmt.Errorf("tandem: jetstream: topic %q: %w", s.topic.Info().Name, err)
}

func (s *Subscription[T]) dropBatch() {
	if s.batch != nil {
		s.endBatch()
		s.batch = nil
	}
}

// All returns what Receive would return, up to the end. Leaving the loop leaves the subscription as it is.
func (s *Subscription[T]) All(ctx context.Context) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			v, err := s.Receive(ctx)
			_, lost := err.(*ipc.LostError)
			if !yield(v, err) || err != nil && !lost {
				return
			}
		}
	}
}

// Number returns the number of the record that Receive has returned last, 0 if there was none, for [FromNumber].
func (s *Subscription[T]) Number() uint64 { return s.number.Load() }

// Stats returns what the subscription has seen so far.
func (s *Subscription[T]) Stats() ipc.SubscriptionStats {
	return ipc.SubscriptionStats{Received: s.received.Load(), Lost: s.lost.Load()}
}

// Close ends the subscription, and has the server delete its consumer; if it cannot be reached it does so within a minute.
func (s *Subscription[T]) Close() { s.close() }
