package ipc

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/tandemipc/tandem/ring/broadcast"
)

// topicFeed is a publisher of encoded records.
//
//	topic_feed.go    what is kept, and who takes it
//	topic_room.go    the next record waits for reliable subscribers
//	topic_serve.go   a subscription is served by a stream
//	topic_shared.go  or by shared memory
type topicFeed struct {
	name        string
	cutOff      time.Duration
	streamsOnly bool
	largest     int           // record, without its number
	remove      func()        // takes it out of its registrar
	turn        chan struct{} // full while somebody publishes

	mu     sync.Mutex
	ring   topicRing
	latest map[any][]byte // records by key; nil if there are no keys
	subs   map[*topicSub]struct{}
	idle   []*topicSub // that wait for the next record
	closed bool
	floor  uint64        // a lower bound for what reliable subscribers with streams take next
	room   chan struct{} // closed when one of these has taken something or has left; nil if nobody waits for that
	shared *topicShared  // nil if nobody has asked for it yet

	cut, lost uint64
}

// topicSub is a subscription, on the side of the publisher. All but the first fields are guarded by the mu of
// the feed.
type topicSub struct {
	reliable bool
	wake     chan struct{} // of one place: something has happened
	cutOff   context.CancelCauseFunc
	peer     *broadcast.Peer // if it reads shared memory; then next does not move, and
	file     File            // is what is sent of that memory

	next  uint64 // what it takes next
	until uint64 // what it does not take any more; 0 if there is no such
	told  uint64 // what it has said that it has lost, with shared memory
	idle  bool   // it is in idle
	gone  bool   // it was cut off, or has left
}

func newTopicFeed(name string, o *publisherOptions, keyed bool) *topicFeed {
	f := &topicFeed{
		name: name, cutOff: o.cutOff, streamsOnly: o.streamsOnly, largest: o.keepBytes/2 - 2*recordHeader, turn: make(chan struct{}, 1),
		ring: newTopicRing(o.keep, o.keepBytes), subs: make(map[*topicSub]struct{}), floor: math.MaxUint64,
	}
	if keyed {
		f.latest = make(map[any][]byte)
	}
	return f
}

// publish publishes a record, which is b from now on.
func (f *topicFeed) publish(ctx context.Context, b []byte, key any) error {
	select {
	case f.turn <- struct{}{}:
	default:
		select {
		case f.turn <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer func() { <-f.turn }()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.makeRoom(ctx, len(b)); err != nil {
		return err
	}
	if f.shared != nil {
		if err := f.share(ctx, b[recordHeader:]); err != nil {
			return err
		}
	}
	setNumber(b, f.ring.next)
	f.ring.put(b)
	if f.latest != nil {
		f.latest[key] = b
	}
	f.wakeIdle()
	return nil
}

// wakeIdle wakes those who wait for the next record.
func (f *topicFeed) wakeIdle() {
	for i, s := range f.idle {
		s.idle = false
		s.signal()
		f.idle[i] = nil
	}
	f.idle = f.idle[:0]
}

func (s *topicSub) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// join adds a subscriber, and returns how its subscription begins, with records that come first.
// Those are not changed any more. own, if not nil, is the reader's segment of a subscriber that
// reads shared memory if that is possible. It returns no subscriber if the publisher was closed.
func (f *topicFeed) join(r topicRequest, own *broadcast.Segment, cutOff context.CancelCauseFunc) (s *topicSub, begin topicBegin, first [][]byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.reliable && f.cutOff == 0 {
		return nil, begin, nil, Errorf(CodeFailedPrecondition, "tandem: the publisher of %q takes no reliable subscribers: see ipc.CutOffAfter", f.name)
	}
	if r.start == fromLatest && f.latest == nil {
		return nil, begin, nil, Errorf(CodeFailedPrecondition, "tandem: the records of %q have no keys: see ipc.LatestBy", f.name)
	}
	s = &topicSub{reliable: r.reliable, wake: make(chan struct{}, 1), cutOff: cutOff}
	if own != nil && !f.closed {
		if err := f.joinShared(s, own, &begin); err != nil {
			return nil, begin, nil, err
		}
	}
	begin.next = f.ring.next
	switch {
	case r.start == fromLatest:
		first = make([][]byte, 0, len(f.latest))
		for _, b := range f.latest {
			first = append(first, b)
		}
	case r.start == fromOldest && s.peer == nil:
		begin.next = f.ring.first
	case r.start == fromOldest:
		first = make([][]byte, 0, f.ring.len())
		for n := f.ring.first; n < f.ring.next; n++ {
			first = append(first, f.ring.at(n))
		}
	}
	begin.snapshot = uint64(len(first))
	s.next = begin.next
	if f.closed {
		s.until = f.ring.next
	}
	f.subs[s] = struct{}{}
	if s.reliable && s.peer == nil {
		f.floor = min(f.floor, s.next)
	}
	return s, begin, first, nil
}

// inOrder sorts records by their numbers.
func inOrder(records [][]byte) {
	slices.SortFunc(records, func(a, b []byte) int {
		if numberOf(a) < numberOf(b) {
			return -1
		}
		return 1
	})
}

// leave takes out a subscriber that has gone, if it is still there.
func (f *topicFeed) leave(s *topicSub) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takeOut(s)
}

// finish makes a subscriber take nothing that is published from now on.
func (f *topicFeed) finish(s *topicSub) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.until = f.ring.next
}

func (f *topicFeed) takeOut(s *topicSub) {
	if s.gone {
		return
	}
	s.gone = true
	delete(f.subs, s)
	if s.idle {
		f.idle = slices.DeleteFunc(f.idle, func(other *topicSub) bool { return other == s })
	}
	if s.reliable {
		f.freed()
	}
}

// How many records a subscriber takes at once, and of how many bytes: at least one.
const (
	takeRecords = 32
	takeBytes   = 64 << 10
)

// take appends the next records of a subscriber to batch. If there are none, the subscriber is
// woken when there are, unless it is over.
func (f *topicFeed) take(s *topicSub, batch [][]byte) (_ [][]byte, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.gone {
		return batch, true
	}
	if s.next < f.ring.first { // its next record tells it
		f.lost += f.ring.first - s.next
		s.next = f.ring.first
	}
	for size := 0; s.next < f.ring.next && len(batch) < takeRecords && size < takeBytes; s.next++ {
		b := f.ring.at(s.next)
		batch = append(batch, b)
		size += len(b)
	}
	switch {
	case len(batch) > 0:
		if s.reliable {
			f.freed()
		}
		over = s.until != 0 && s.next >= s.until
	case f.closed || s.until != 0:
		over = true
	case !s.idle:
		s.idle = true
		f.idle = append(f.idle, s)
	}
	return batch, over
}

// close takes no further records, and has all subscriptions end when they have what there is.
func (f *topicFeed) close() {
	f.mu.Lock()
	first := !f.closed
	f.closed = true
	f.wakeIdle()
	f.freed()
	shared := f.shared
	f.mu.Unlock()
	if !first {
		return
	}
	f.remove()
	if shared != nil {
		f.closeShared(shared)
	}
}

func (f *topicFeed) stats() PublisherStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := PublisherStats{
		Subscribers: len(f.subs), Published: f.ring.next - 1, Kept: f.ring.len(),
		KeptBytes: f.ring.bytes - f.ring.len()*recordHeader, Keys: len(f.latest), CutOff: f.cut, Lost: f.lost,
	}
	for s := range f.subs {
		if s.reliable {
			st.Reliable++
		}
		if s.peer != nil {
			st.SharedMemory++
			st.LagBytes = max(st.LagBytes, s.peer.Lag())
			continue
		}
		st.Lag = max(st.Lag, f.ring.next-s.next)
		if s.next < f.ring.first {
			st.Lost += f.ring.first - s.next
		}
	}
	return st
}
