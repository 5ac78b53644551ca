package jetipc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
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
// It has an ephemeral consumer, which it makes anew where it is when the server was away. Up to 256 records, and about 1 MiB, are fetched
// at a time.
type Subscription[T any] struct {
	js    natsjs.JetStream
	topic *ipc.Topic[T]
	codec ipc.Codec
	place topicPlace
	ctx   context.Context // ends with Close
	close context.CancelFunc

	snapshot   uint64 // while that is not 0: records up to here come first, the latest of each key
	next       uint64 // the number of the next record, if none is lost
	held       message
	holds      bool // held has come, but those before it that are lost were told first
	cons       natsjs.Consumer
	delivered  uint64 // by cons
	reconnects uint64 // of the connection, when cons was made
	batch      natsjs.MessageBatch
	endBatch   context.CancelFunc
	came       bool // something has come with batch
	pace       pace

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
	s := &Subscription[T]{js: js, topic: topic, codec: topic.Codec(nil), place: place}
	switch o.from {
	case fromNow:
		s.next = state.LastSeq + 1
	case fromOldest:
		s.next = max(state.FirstSeq, 1)
	case fromLatest:
		s.snapshot, s.next = state.LastSeq, state.LastSeq+1
	case fromNumber:
		s.next = o.next
	}
	s.ctx, s.close = context.WithCancel(context.Background())
	return s, nil
}

// Receive waits for the next record. It returns an [*ipc.LostError] in the place of those that are lost, and then goes on. Any other error is
// the end: [ipc.ErrClosed] after Close; one that wraps nats.ErrConnectionClosed, jetstream.ErrStreamNotFound; of
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
			if m.seq >= last || m.ahead == 0 {
				s.live() // what is behind last comes again, with what is before it
			}
			if m.seq <= last && m.seq > s.number.Load() { // or the consumer is another one
				return m, nil
			}
			continue
		case m.seq < s.next:
			continue
		}
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

// drop makes the next message come with another consumer.
func (s *Subscription[T]) drop() {
	s.dropBatch()
	if s.cons == nil {
		return
	}
	js, stream, name := s.js, s.place.stream, s.cons.CachedInfo().Name
	s.cons = nil
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
		defer cancel()
		_ = js.DeleteConsumer(ctx, stream, name) // or the server does
	}()
}

func (s *Subscription[T]) dropBatch() {
	if s.batch != nil {
		s.endBatch()
		s.batch = nil
	}
}

// fetched returns the next message of a consumer.
func (s *Subscription[T]) fetched(ctx context.Context) (m message, err error) {
	missing := 0
	for failed := 0; ; {
		if err = s.fetch(ctx); err == nil {
			if m, err = s.fromBatch(ctx); err == nil {
				return m, nil
			}
		}
		switch {
		case s.ctx.Err() != nil:
			return m, ipc.ErrClosed
		case ctx.Err() != nil:
			return m, ctx.Err()
		case s.js.Conn().IsClosed():
			return m, fmt.Errorf("tandem: jetstream: topic %q: %w", s.topic.Info().Name, nats.ErrConnectionClosed)
		case err == errEmpty:
			failed, missing = 0, 0
			continue
		}
		s.drop()
		if missing++; !refused(err) {
			missing = 0
		}
		if missing >= notThere {
			return m, fmt.Errorf("tandem: jetstream: topic %q: %w", s.topic.Info().Name, err)
		}
		failed++
		sleep(ctx, min(20*time.Millisecond<<min(failed, 5), 500*time.Millisecond))
	}
}

// refused reports whether the server says that there is no such stream, or that it makes no consumer of it, such as for a limit.
func refused(err error) bool {
	var api *natsjs.APIError
	return errors.Is(err, natsjs.ErrStreamNotFound) || errors.As(err, &api) && !transient(err)
}

// errEmpty says that there is no message, though all is well.
var errEmpty = errors.New("tandem: jetstream: no message")

// fetch makes sure that there is a batch.
func (s *Subscription[T]) fetch(ctx context.Context) error {
	if s.cons == nil {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		c := natsjs.ConsumerConfig{AckPolicy: natsjs.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
			DeliverPolicy: natsjs.DeliverByStartSequencePolicy, OptStartSeq: s.next}
		if s.snapshot > 0 {
			c.DeliverPolicy, c.OptStartSeq, c.FilterSubject = natsjs.DeliverLastPerSubjectPolicy, 0, s.place.subject+".>"
		}
		reconnects := s.js.Conn().Stats().Reconnects
		cons, err := s.js.CreateConsumer(ctx, s.place.stream, c)
		if err != nil {
			return err
		}
		s.cons, s.delivered, s.reconnects = cons, 0, reconnects
		if s.snapshot > 0 && cons.CachedInfo().NumPending == 0 {
			s.live()
			return s.fetch(ctx)
		}
	}
	if s.batch != nil {
		return nil
	}
	// The server ends it earlier.
	until, cancel := whileConnected(s.ctx, s.js.Conn(), s.pace.wait())
	batch, err := s.cons.Fetch(256, natsjs.FetchContext(until), natsjs.FetchHeartbeat(s.pace.heartbeat()), natsjs.FetchMaxBytes(int(s.js.Conn().MaxPayload())+64<<10))
	if err != nil {
		cancel()
		return err
	}
	s.batch, s.endBatch, s.came = batch, cancel, false
	return nil
}

// fromBatch returns the next message of the batch, or errEmpty when another one is to be fetched.
func (s *Subscription[T]) fromBatch(ctx context.Context) (m message, err error) {
	select {
	case msg, ok := <-s.batch.Messages():
		if ok {
			meta, err := msg.Metadata()
			if err != nil {
				return m, err
			}
			if s.delivered++; meta.Sequence.Consumer != s.delivered {
				return m, errUnconfirmed // one is lost on the way: another consumer begins there
			}
			s.came = true
			return message{Msg: msg, seq: meta.Sequence.Stream, ahead: meta.NumPending}, nil
		}
	case <-ctx.Done():
		return m, ctx.Err()
	case <-s.ctx.Done():
		return m, ipc.ErrClosed
	}
	err = s.batch.Error()
	s.pace.saw(s.came, err)
	s.dropBatch()
	switch {
	case s.js.Conn().Stats().Reconnects != s.reconnects: // what was on its way is lost
		return m, nats.ErrDisconnected
	case err != nil:
		return m, err
	case !s.came && s.snapshot > 0: // the rest is gone
		s.live()
	}
	return m, errEmpty
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

// Close ends the subscription.
func (s *Subscription[T]) Close() { s.close() }

// message is a message of a stream.
type message struct {
	natsjs.Msg
	seq   uint64 // in the stream
	ahead uint64 // how many the consumer has yet to deliver
}

// pace says how long a request for messages waits. What comes after that is missed, and comes once more after a time. So a
// request waits longer after one that has heard nothing: however slow the server is, something comes at last.
type pace struct{ slower int }

// heartbeat is how often the server is to say that it is there. It is missed after twice that.
func (p pace) heartbeat() time.Duration { return heartbeat << p.slower }

// wait is how long a request waits for messages.
func (p pace) wait() time.Duration { return 4 * p.heartbeat() }

// saw takes account of a request that has ended.
func (p *pace) saw(came bool, err error) {
	if came {
		p.slower = 0
	} else if errors.Is(err, natsjs.ErrNoHeartbeat) {
		p.slower = min(p.slower+1, 4)
	}
}
