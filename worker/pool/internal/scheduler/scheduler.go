// Package scheduler gives the calls of a pool to its workers.
package scheduler

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Client is what the scheduler gives calls to.
type Client interface {
	Invoke(ctx context.Context, call *ipc.Invocation, request, memory []byte) ([]byte, error)
	OpenStream(ctx context.Context, call *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error)
	Active() bool
	Close() error
	Process() drivers.Process
}

// Member is one worker process of a pool, as the scheduler sees it. Its fields that are
// not exported, and Fault until Lost is closed, are guarded by the scheduler's lock.
type Member struct {
	Client     Client
	Slot       uint64        // what keys stick to; inherited by the member that replaces it
	RecycleDue chan struct{} // closed when it has had its number of calls
	Lost       chan struct{} // closed when Fault is set, and it serves no longer
	Fault      error

	serving      bool
	running      int           // calls
	unresponsive int           // calls that were given up since it has last answered
	calls        uint64        // that have ended
	idle         chan struct{} // if not nil, closed when nothing runs
	waiting      list.List     // of *Waiter: calls with a key that this member owns
}

// NewMember returns a member that does not serve yet.
func NewMember(client Client, slot uint64) *Member {
	return &Member{Client: client, Slot: slot, RecycleDue: make(chan struct{}), Lost: make(chan struct{})}
}

// Waiter is a call in the queue.
type Waiter struct {
	ticket uint64 // its place in the order of arrival
	key    uint64 // 0 for a call that any member may serve
	since  time.Duration
	// Ready has a token when Member or Err is set.
	Ready chan struct{}

	// Guarded by the scheduler's lock. Once Ready has a token list is nil.
	list    *list.List
	element *list.Element
	Member  *Member
	Began   time.Duration // when Member got it
	Err     error
}

// Scheduler gives calls to members. It knows neither processes nor contexts, and
// is told the time.
//
// While a call waits that any member may serve, all members that serve are full,
// and while a call waits for one member this one is full. So a call that comes
// and finds room overtakes nobody.
type Scheduler struct {
	concurrency  int
	queue        int    // how many calls may wait
	recycleAfter uint64 // calls after which a member is due to be recycled, 0 for never
	growNeeded   func() // called, under the lock, when a call finds no room

	mu        sync.Mutex
	closed    bool      // no more calls
	down      error     // set: nobody will serve
	members   []*Member // that serve, by slot
	waiting   list.List // of *Waiter: calls that no key binds, and those with a key while nobody serves
	queued    int       // calls that wait anywhere
	returning int       // calls that were released to come again
	tickets   uint64
	quiet     chan struct{} // if not nil, closed when no call waits or runs
	peak      int           // most calls that ran and waited at once, since Wanted looked
	runs      area          // of calls that run
	places    area          // of calls that could run
	waits     *hdrhistogram.Histogram
	runTimes  *hdrhistogram.Histogram
	counts    counts
}

// New returns a scheduler without members. Each member runs concurrency calls at a time,
// queue calls may wait, and a member is due to be recycled after recycleAfter calls, 0 for
// never. growNeeded is called, under a lock, when a call finds no room.
func New(concurrency, queue int, recycleAfter uint64, growNeeded func()) *Scheduler {
	histogram := func() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(longestWait), 2) }
	return &Scheduler{concurrency: concurrency, queue: queue, recycleAfter: recycleAfter, growNeeded: growNeeded, waits: histogram(), runTimes: histogram()}
}

// Entry is how a call comes to the scheduler.
type Entry uint8

const (
	// First: it comes for the first time.
	First Entry = iota
	// Patient: it waits even if the queue is full.
	Patient
	// Again: it was released to come again, and is as good as accepted.
	Again
)

// Outcome is how a call on a member has ended.
type Outcome struct {
	Failed       bool
	Again        bool // it comes again
	Unresponsive bool // it was given up without an answer
	Unknown      bool // it was given up, with an answer or without
}

// Acquire gives a call to a member, or puts it into the queue. key is 0 for a
// call that any member may serve.
func (s *Scheduler) Acquire(key uint64, e Entry, now time.Duration) (*Member, *Waiter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e == Again:
		s.returning--
	case s.closed:
		return nil, nil, ipc.ErrClosed
	}
	if s.down != nil {
		s.settle()
		return nil, nil, s.down
	}
	var m *Member
	if key == 0 {
		m = s.leastBusy()
	} else {
		m = s.owner(key)
	}
	if m != nil && m.running < s.concurrency {
		s.start(m, now)
		return m, nil, nil
	}
	s.growNeeded()
	if s.queued >= s.queue && e == First {
		s.counts.rejected++
		return nil, nil, ipc.Errorf(ipc.CodeResourceExhausted,
			"tandem: %d calls run and %d wait in the pool, which is all that may (see pool.WithConcurrency and pool.WithQueue)", s.runs.level, s.queued)
	}
	s.tickets++
	w := &Waiter{ticket: s.tickets, key: key, since: now, Ready: make(chan struct{}, 1)}
	s.push(w, m)
	s.queued++
	s.peak = max(s.peak, s.runs.level+s.queued)
	return nil, w, nil
}

// leastBusy returns the member with the fewest calls of those that have room, or
// nil. Calls count too that it has left without an answer: one that hangs would
// else be idle again and again, and draw all calls. Among equals it is always the
// first, for that one is awake and its caches are warm.
func (s *Scheduler) leastBusy() *Member {
	var best *Member
	for _, m := range s.members {
		if m.running < s.concurrency && (best == nil || m.running+m.unresponsive < best.running+best.unresponsive) {
			if best = m; m.running+m.unresponsive == 0 {
				break
			}
		}
	}
	return best
}

// owner returns the member that owns a key, by rendezvous: each member
// draws a number for the key and the highest wins. So a member that comes or goes
// moves only the keys that it wins or had won.
func (s *Scheduler) owner(key uint64) *Member {
	var best *Member
	var highest uint64
	for _, m := range s.members {
		if n := mix(key ^ mix(m.Slot)); best == nil || n > highest {
			best, highest = m, n
		}
	}
	return best
}

// mix spreads what differs in few bits over all of them; it is the last step of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (s *Scheduler) start(m *Member, now time.Duration) {
	m.running++
	s.runs.change(1, now)
	s.peak = max(s.peak, s.runs.level+s.queued)
}

// Release ends a call, which began to run at began, and gives its place to
// another. o is how it has ended.
func (s *Scheduler) Release(m *Member, began, now time.Duration, o Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.running--
	s.runs.change(-1, now)
	record(s.runTimes, now-began)
	s.counts.ended++
	if o.Again {
		s.returning++
		s.counts.retried++
	} else if o.Failed {
		s.counts.failed++
	}
	switch {
	case o.Unresponsive:
		m.unresponsive++
	case !o.Unknown:
		m.unresponsive = 0
	}
	if m.calls++; m.calls == s.recycleAfter {
		close(m.RecycleDue)
	}
	if m.serving {
		s.feed(m, now)
	} else if m.running == 0 && m.idle != nil {
		close(m.idle)
	}
	s.settle()
}

// push puts w into the queue of its member, or of all if m is nil or w has no key.
func (s *Scheduler) push(w *Waiter, m *Member) {
	w.list = &s.waiting
	if w.key != 0 && m != nil {
		w.list = &m.waiting
	}
	w.element = w.list.PushBack(w)
}

// pop takes w out of the queue.
func (s *Scheduler) pop(w *Waiter) {
	w.list.Remove(w.element)
	w.list = nil
	s.queued--
}

// feed gives waiting calls to m while it has room, in the order in which they came.
func (s *Scheduler) feed(m *Member, now time.Duration) {
	for m.running < s.concurrency {
		w := first(&m.waiting)
		if other := first(&s.waiting); w == nil || other != nil && other.ticket < w.ticket {
			w = other
		}
		if w == nil {
			return
		}
		s.pop(w)
		s.start(m, now)
		record(s.waits, now-w.since)
		w.Member, w.Began = m, now
		w.Ready <- struct{}{}
	}
}

func first(l *list.List) *Waiter {
	if e := l.Front(); e != nil {
		return e.Value.(*Waiter)
	}
	return nil
}

// Abandon takes a call out of the queue. It returns false if the call was given
// to a member, or failed, meanwhile.
func (s *Scheduler) Abandon(w *Waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.list == nil {
		return false
	}
	s.pop(w)
	s.counts.abandoned++
	s.settle()
	return true
}

// Close lets no more calls in. Those that wait go on to. It returns a channel
// that is closed when no call waits or runs.
func (s *Scheduler) Close() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	quiet := make(chan struct{})
	s.closed, s.quiet = true, quiet
	s.settle()
	return quiet
}

// settle tells who waits for it that no call waits, runs or comes again.
func (s *Scheduler) settle() {
	if s.quiet != nil && s.queued == 0 && s.returning == 0 && s.runs.level == 0 {
		close(s.quiet)
		s.quiet = nil
	}
}

// SetDown says that nobody will serve, and why: calls that wait or come later
// fail with err. nil takes it back.
func (s *Scheduler) SetDown(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down = err; err == nil {
		return
	}
	fail := func(l *list.List) {
		for w := first(l); w != nil; w = first(l) {
			s.pop(w)
			w.Err = err
			w.Ready <- struct{}{}
		}
	}
	fail(&s.waiting)
	for _, m := range s.members {
		fail(&m.waiting)
	}
	s.settle()
}

// Wanted returns how many members the most calls since the last time would have
// needed.
func (s *Scheduler) Wanted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	peak := s.peak
	s.peak = s.runs.level + s.queued
	return (peak + s.concurrency - 1) / s.concurrency
}

// Lacking returns how many members the calls need that wait now, at least 1: it
// is asked since a call has found no room, and that one may not wait.
func (s *Scheduler) Lacking() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max((s.queued+s.concurrency-1)/s.concurrency, 1)
}
