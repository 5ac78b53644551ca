package ipc

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// topicFeed is a publisher of encoded records.
type topicFeed struct {
	name   string
	cutOff time.Duration
	remove func() // takes it out of its registrar

	mu     sync.Mutex
	ring   topicRing
	latest map[any][]byte // records by key; nil if there are no keys
	subs   map[*topicSub]struct{}
	idle   []*topicSub // that wait for the next record
	closed bool
	// reliable is how many of subs are, and floor a lower bound for what they take next.
	reliable int
	floor    uint64
	room     chan struct{} // closed when a reliable one has taken something or has left; nil if nobody waits for that

	cut, lost uint64
}

// topicSub is a subscription, on the side of the publisher. All but the first fields are guarded by the mu of
// the feed.
type topicSub struct {
	reliable bool
	wake     chan struct{} // of one place: something has happened
	cutOff   context.CancelCauseFunc

	next uint64 // what it takes next
	idle bool   // it is in idle
	gone bool   // it was cut off, or has left
}

func newTopicFeed(name string, o publisherOptions, keyed bool) *topicFeed {
	f := &topicFeed{name: name, cutOff: o.cutOff, ring: newTopicRing(o.keep, o.keepBytes), subs: make(map[*topicSub]struct{}), floor: math.MaxUint64}
	if keyed {
		f.latest = make(map[any][]byte)
	}
	return f
}

// publish publishes a record, which is b from now on.
func (f *topicFeed) publish(ctx context.Context, b []byte, key any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.makeRoom(ctx, len(b)); err != nil {
		return err
	}
	setNumber(b, f.ring.next)
	f.ring.put(b)
	if f.latest != nil {
		f.latest[key] = b
	}
	f.wakeIdle()
	return nil
}

// makeRoom makes room for a record of n bytes. It waits for reliable subscribers, with f.mu unlocked.
func (f *topicFeed) makeRoom(ctx context.Context, n int) error {
	var timer *time.Timer
	for expired := false; ; {
		switch {
		case f.closed:
			return ErrClosed
		case f.dropFor(n):
			return nil
		case expired:
			f.cutBehind()
			continue
		case timer == nil:
			timer = time.NewTimer(f.cutOff)
			defer timer.Stop()
		}
		if f.room == nil {
			f.room = make(chan struct{})
		}
		room := f.room
		f.mu.Unlock()
		var err error
		select {
		case <-room:
		case <-timer.C:
			expired = true
		case <-ctx.Done():
			err = ctx.Err()
		}
		f.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// dropFor forgets the oldest records until one of n bytes has room. It returns false if a reliable subscriber
// has not got the oldest one.
func (f *topicFeed) dropFor(n int) bool {
	for f.ring.full(n) {
		if f.ring.first >= f.floor {
			f.floor = math.MaxUint64
			for s := range f.subs {
				if s.reliable {
					f.floor = min(f.floor, s.next)
				}
			}
			if f.ring.first >= f.floor {
				return false
			}
		}
		f.ring.drop()
	}
	return true
}

// cutBehind cuts off the reliable subscribers that have not got the oldest record.
func (f *topicFeed) cutBehind() {
	for s := range f.subs {
		if s.reliable && s.next <= f.ring.first {
			f.cut++
			f.takeOut(s)
			s.cutOff(ErrCutOff)
		}
	}
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

// freed tells publishers that wait that a reliable subscriber has taken something, or has left.
func (f *topicFeed) freed() {
	if f.room != nil {
		close(f.room)
		f.room = nil
	}
}

// join adds a subscriber, and returns how its subscription begins, with records that come first. Those
// are not changed any more. It returns no subscriber if the publisher was closed.
func (f *topicFeed) join(r topicRequest, cutOff context.CancelCauseFunc) (s *topicSub, begin topicBegin, first [][]byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.reliable && f.cutOff == 0 {
		return nil, begin, nil, Errorf(CodeFailedPrecondition, "tandem: the publisher of %q takes no reliable subscribers: see ipc.CutOffAfter", f.name)
	}
	begin.next = f.ring.next
	switch r.start {
	case fromOldest:
		begin.next = f.ring.first
	case fromLatest:
		if f.latest == nil {
			return nil, begin, nil, Errorf(CodeFailedPrecondition, "tandem: the records of %q have no keys: see ipc.LatestBy", f.name)
		}
		first = make([][]byte, 0, len(f.latest))
		for _, b := range f.latest {
			first = append(first, b)
		}
		begin.snapshot = uint64(len(first))
	}
	if f.closed {
		return nil, begin, first, nil
	}
	s = &topicSub{reliable: r.reliable, wake: make(chan struct{}, 1), cutOff: cutOff, next: begin.next}
	f.subs[s] = struct{}{}
	if s.reliable {
		f.reliable++
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
		f.reliable--
		f.freed()
	}
}

// How many records a subscriber takes at once, and of how many bytes: at least one.
const (
	takeRecords = 32
	takeBytes   = 64 << 10
)

// take appends the next records of a subscriber to batch. If there are none, the subscriber is woken when there are, unless it is
// over.
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
	case f.closed:
		return batch, true
	case !s.idle:
		s.idle = true
		f.idle = append(f.idle, s)
	}
	return batch, false
}

func (f *topicFeed) close() {
	f.mu.Lock()
	first := !f.closed
	f.closed = true
	f.wakeIdle()
	f.freed()
	f.mu.Unlock()
	if first {
		f.remove()
	}
}

func (f *topicFeed) stats() PublisherStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := PublisherStats{
		Subscribers: len(f.subs), Reliable: f.reliable, Published: f.ring.next - 1, Kept: f.ring.len(),
		KeptBytes: f.ring.bytes - f.ring.len()*recordHeader, Keys: len(f.latest), CutOff: f.cut, Lost: f.lost,
	}
	for s := range f.subs {
		st.Lag = max(st.Lag, f.ring.next-s.next)
		if s.next < f.ring.first {
			st.Lost += f.ring.first - s.next
		}
	}
	return st
}
