package ipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"runtime"
	"sync/atomic"
)

// Subscribe subscribes to the topic, which the other side of c publishes, and returns the records.
// Where records are lost the sequence has a [*LostError] in their place, and goes on. Any other
// error is the last element:
//
//	for quote, err := range Quotes.Subscribe(ctx, client) {
//		var lost *ipc.LostError
//		if errors.As(err, &lost) {
//			log.Println(lost.Count, "quotes are lost")
//			continue
//		}
//		if err != nil {
//			return err
//		}
//		use(quote)
//	}
//
// It begins with the next record that is published after the subscription has reached the
// publisher, unless [FromOldest] or [FromLatest] say otherwise. [Topic.Open] tells when that is.
// The sequence ends without an error when the publisher was closed, and with an error
//
//   - that wraps [ErrPeerGone], an [*ExitError] say, or [ErrDisconnected], when the other side or the connection has
//     ended. What it had sent before comes first;
//   - that wraps [ErrCutOff], for a [Reliable] subscriber that was too slow;
//   - of CodeUnimplemented, when the other side has no publisher of the topic;
//   - of CodeFailedPrecondition, when the publisher does not do what the options want;
//   - ctx.Err(), when ctx ends; [ErrClosed], when the client is closed. The client does not wait for subscriptions.
//
// Leaving the loop ends the subscription. Records of type []byte with the codec [Raw] are valid until the next
// one.
//
// c is a client, what worker.Host returns, or a pool, which chooses one worker, and gives a place of it to
// the subscription for as long as that lasts.
func (t *Topic[T]) Subscribe(ctx context.Context, c Caller, opts ...SubscribeOption) iter.Seq2[T, error] {
	t.check(ctx, c)
	return func(yield func(T, error) bool) {
		s, err := t.Open(ctx, c, opts...)
		if err != nil {
			yield(*new(T), err)
			return
		}
		defer s.Close()
		s.All(ctx)(yield)
	}
}

// Open subscribes to the topic, as [Topic.Subscribe] does, and returns when the publisher knows the
// subscriber: whatever it publishes after that comes, or is told as lost. ctx bounds the whole
// subscription, which has to be closed, or received from to its end, or ctx has to end.
func (t *Topic[T]) Open(ctx context.Context, c Caller, opts ...SubscribeOption) (*Subscription[T], error) {
	t.check(ctx, c)
	var o subscribeOptions
	for _, opt := range opts {
		opt.applySubscribe(&o)
	}
	call := t.call.with(o.call)
	s, err := t.open(ctx, c, call, o.request, true)
	if err == errNotShared {
		s, err = t.open(ctx, c, call, o.request, false)
	}
	return s, err
}

// open subscribes, and wants to read shared memory if share is set. It returns errNotShared if this
// side is short of something for that.
func (t *Topic[T]) open(ctx context.Context, c Caller, call *Invocation, r topicRequest, share bool) (*Subscription[T], error) {
	m := new(topicMemory)
	st, err := openStream(ctx, c, call, &StreamOpening{Lasting: true, OnEnd: m.streamEnded})
	if err != nil {
		return nil, err
	}
	s := &Subscription[T]{topic: t, stream: st, memory: m}
	if !share || !m.request(ctx, st, r) {
		err = st.Send(ctx, r.append(nil))
	}
	if err == nil || err == io.EOF { // which Receive explains
		err = s.begin(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	runtime.AddCleanup(s, func(m *topicMemory) { m.release() }, m)
	return s, nil
}

// A Subscription is what [Topic.Open] returns. One goroutine at a time may receive; any may call Close and
// Stats.
type Subscription[T any] struct {
	topic  *Topic[T]
	stream Stream
	memory *topicMemory

	snapshot uint64 // records that come before next
	after    uint64 // the number of the last of them
	next     uint64 // the number of the next record if none is lost
	held     []byte // a record that has come, though those before it that are lost were told first; if holds
	holds    bool
	over     bool // there are no more in the memory

	received, lost atomic.Uint64
}

// begin receives what the publisher says first.
func (s *Subscription[T]) begin(ctx context.Context) error {
	b, err := s.stream.Receive(ctx)
	if err == io.EOF {
		err = Errorf(CodeInternal, "%w: the publisher of %q has not begun", ErrProtocol, s.topic.Info().Name)
	}
	if err != nil {
		return err
	}
	g, err := parseTopicBegin(b)
	if err == nil {
		err = s.memory.begin(s.stream, g)
	}
	if err == errNotShared {
		return err
	}
	if err != nil {
		return s.broken(err)
	}
	s.next, s.snapshot = g.next, g.snapshot
	return nil
}

// Receive waits for the next record. It returns a [*LostError] in the place of those that are lost,
// and then goes on. Any other error is the end, as for [Topic.Subscribe], and io.EOF is that of a
// publisher that was closed; only ctx.Err() leaves the subscription as it is.
func (s *Subscription[T]) Receive(ctx context.Context) (T, error) {
	s.memory.receiving.Lock()
	defer s.memory.receiving.Unlock()
	b := s.held
	if holds := s.holds; holds {
		s.held, s.holds = nil, false
	} else {
		n, record, err := s.receive(ctx)
		if err != nil {
			return *new(T), s.end(ctx, err)
		}
		lost, err := s.count(n)
		switch {
		case err != nil:
			return *new(T), s.end(ctx, s.broken(err))
		case lost > 0:
			s.held, s.holds = record, true
			s.memory.tell(ctx, s.stream, s.lost.Add(lost))
			return *new(T), &LostError{s.topic.Info().Name, lost}
		}
		b = record
	}
	if s.over {
		_, _, err := s.receive(ctx)
		if err == nil {
			err = s.broken(fmt.Errorf("%w: an item after the end", ErrProtocol))
		}
		return *new(T), s.end(ctx, err)
	}
	v, err := s.decode(b)
	if err != nil {
		return v, s.end(ctx, err)
	}
	s.received.Add(1)
	return v, nil
}

// receive returns the next record, and its number, which is 0 if that is none.
func (s *Subscription[T]) receive(ctx context.Context) (n uint64, record []byte, err error) {
	if s.snapshot == 0 && s.memory.reads() && !s.over {
		n, record, s.over, err = s.memory.next(ctx)
		if errors.Is(err, ErrProtocol) {
			err = s.broken(err)
		}
		if err != errStreamEnded {
			return n, record, err
		}
	}
	b, err := s.stream.Receive(ctx)
	if err != nil || len(b) < recordHeader || s.snapshot == 0 && s.memory.reads() {
		return 0, nil, err
	}
	return numberOf(b), b[recordHeader:], nil
}

// count counts record n, which has come, and returns how many are lost before it.
func (s *Subscription[T]) count(n uint64) (lost uint64, err error) {
	if s.snapshot > 0 {
		if n <= s.after || n >= s.next {
			return 0, fmt.Errorf("%w: record %d comes after %d, and before %d", ErrProtocol, n, s.after, s.next)
		}
		s.after = n
		s.snapshot--
		return 0, nil
	}
	if n < s.next || n == math.MaxUint64 {
		return 0, fmt.Errorf("%w: record %d comes where %d is next", ErrProtocol, n, s.next)
	}
	lost = n - s.next
	s.next = n + 1
	return lost, nil
}

// end returns the error with which a subscription has ended, if it has, because of err.
func (s *Subscription[T]) end(ctx context.Context, err error) error {
	if ctx.Err() != nil && !s.memory.over() {
		return err // of this Receive alone
	}
	s.memory.release()
	if err == io.EOF && s.snapshot > 0 {
		return Errorf(CodeInternal, "%w: the publisher of %q has ended before %d records that it has promised", ErrProtocol, s.topic.Info().Name, s.snapshot)
	}
	return err
}

// broken ends the subscription, whose publisher breaks the protocol.
func (s *Subscription[T]) broken(err error) error {
	s.stream.Close()
	return Errorf(CodeInternal, "subscription to %q: %w", s.topic.Info().Name, err)
}

func (s *Subscription[T]) decode(b []byte) (v T, err error) {
	if s.topic.codec == Raw {
		v, _ = any(b).(T)
		return v, nil
	}
	if v, err = Unmarshal[T](s.topic.codec, b); err != nil {
		s.stream.Close()
		code := CodeInternal
		if CodeOf(err) == CodeResourceExhausted {
			code = CodeResourceExhausted
		}
		return v, Errorf(code, "decode a record of %q: %w", s.topic.Info().Name, err)
	}
	return v, nil
}

// All returns what Receive would return, up to the end. Leaving the loop leaves the subscription as it is.
func (s *Subscription[T]) All(ctx context.Context) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			v, err := s.Receive(ctx)
			if err == io.EOF {
				return
			}
			_, lost := err.(*LostError)
			if !yield(v, err) || err != nil && !lost {
				return
			}
		}
	}
}

// Close ends the subscription. What has not been received is dropped.
func (s *Subscription[T]) Close() {
	s.stream.Close()
	s.memory.close()
}

// SubscriptionStats is what a [Subscription] has seen.
type SubscriptionStats struct {
	// Received is how many records Receive has returned, and Lost how many it has told as lost.
	Received, Lost uint64
	// SharedMemory says that the records come through memory that the two processes share, rather than
	// in a stream.
	SharedMemory bool
}

// Stats returns what the subscription has seen so far.
func (s *Subscription[T]) Stats() SubscriptionStats {
	return SubscriptionStats{Received: s.received.Load(), Lost: s.lost.Load(), SharedMemory: s.memory.shared.Load()}
}
