package worker

import (
	"cmp"
	"container/list"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/tandemipc/tandem/ipc"
)

// member is one worker process of a pool, as the scheduler sees it. Its fields
// but the first three, and fault once lost is closed, are guarded by the scheduler's lock.
type member struct {
	client poolClient
	seat   uint64        // what keys stick to; inherited by whoever replaces it
	worn   chan struct{} // closed when it has had its number of calls
	lost   chan struct{} // closed when fault is set, and it serves no longer
	fault  error

	serving bool
	running int           // calls
	silent  int           // calls that were given up since it has last answered
	calls   uint64        // that have ended
	idle    chan struct{} // if not nil, closed when nothing runs
	waiting list.List     // of *waiter: calls with a key that is at home here
}

// waiter is a call in the queue.
type waiter struct {
	ticket uint64 // its place in the order of arrival
	key    uint64 // 0 for a call that any member may serve
	since  time.Duration
	ready  chan struct{} // has a token when member or err is set

	// Guarded by the scheduler's lock. Once ready has a token list is nil.
	list    *list.List
	element *list.Element
	member  *member
	began   time.Duration // when member got it
	err     error
}

// scheduler gives calls to members. It knows neither processes nor contexts, and
// is told the time.
//
// While a call waits that any member may serve, all members that serve are full,
// and while a call waits for one member this one is full. So a call that comes
// and finds room overtakes nobody.
type scheduler struct {
	concurrency int
	queue       int    // how many calls may wait
	wear        uint64 // calls after which a member is worn, 0 for never
	hungry      func() // called, under the lock, when a call finds no room

	mu        sync.Mutex
	closed    bool      // no more calls
	down      error     // set: nobody will serve
	members   []*member // that serve, by seat
	waiting   list.List // of *waiter: calls that no key binds, and those with a key while nobody serves
	queued    int       // calls that wait anywhere
	returning int       // calls that were released to come again
	tickets   uint64
	quiet     chan struct{} // if not nil, closed when no call waits or runs
	peak      int           // most calls that ran and waited at once, since wanted looked
	runs      area          // of calls that run
	places    area          // of calls that could run
	waits     *hdrhistogram.Histogram
	runTimes  *hdrhistogram.Histogram
	counts    counts
}

type counts struct{ ended, failed, retried, rejected, abandoned uint64 }

// area adds up a number over time: calls that run, over time, are the time
// that was spent in calls.
type area struct {
	level int
	sum   time.Duration // as if the level had been 0 from now on
}

func (a *area) add(n int, now time.Duration) {
	a.level += n
	a.sum -= time.Duration(n) * now
}

func (a *area) until(now time.Duration) time.Duration { return a.sum + time.Duration(a.level)*now }

// longestWait is the longest time that histograms tell from longer ones.
const longestWait = time.Hour

func newScheduler(concurrency, queue int, wear uint64, hungry func()) *scheduler {
	histogram := func() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(longestWait), 2) }
	return &scheduler{concurrency: concurrency, queue: queue, wear: wear, hungry: hungry, waits: histogram(), runTimes: histogram()}
}

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(int64(min(max(d, 1), longestWait))) // in range, so there is no error
}

// entry is how a call comes to the scheduler.
type entry uint8

const (
	entryNew     entry = iota
	entryPatient       // it waits even if the queue is full
	entryAgain         // it was released to come again, and is as good as accepted
)

// outcome is how a call on a member has ended.
type outcome struct {
	failed bool
	again  bool // it comes again
	silent bool // it was given up without an answer
}

// acquire gives a call to a member, or puts it into the queue. key is 0 for a
// call that any member may serve.
func (s *scheduler) acquire(key uint64, e entry, now time.Duration) (*member, *waiter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e == entryAgain:
		s.returning--
	case s.closed:
		return nil, nil, ipc.ErrClosed
	}
	if s.down != nil {
		s.settle()
		return nil, nil, s.down
	}
	var m *member
	if key == 0 {
		m = s.leastBusy()
	} else {
		m = s.home(key)
	}
	if m != nil && m.running < s.concurrency {
		s.start(m, now)
		return m, nil, nil
	}
	s.hungry()
	if s.queued >= s.queue && e == entryNew {
		s.counts.rejected++
		return nil, nil, ipc.Errorf(ipc.CodeResourceExhausted,
			"tandem: %d calls run and %d wait in the pool, which is all that may (see worker.WithConcurrency and worker.WithQueue)", s.runs.level, s.queued)
	}
	s.tickets++
	w := &waiter{ticket: s.tickets, key: key, since: now, ready: make(chan struct{}, 1)}
	s.push(w, m)
	s.queued++
	s.peak = max(s.peak, s.runs.level+s.queued)
	return nil, w, nil
}

// leastBusy returns the member with the fewest calls of those that have room, or
// nil. Calls count too that it has left without an answer: one that hangs would
// else be idle again and again, and draw all calls. Among equals it is always the
// first, for that one is awake and its caches are warm.
func (s *scheduler) leastBusy() *member {
	var best *member
	for _, m := range s.members {
		if m.running < s.concurrency && (best == nil || m.running+m.silent < best.running+best.silent) {
			if best = m; m.running+m.silent == 0 {
				break
			}
		}
	}
	return best
}

// home returns the member where a key is at home, by rendezvous: each member
// draws a number for the key and the highest wins. So a member that comes or goes
// moves only the keys that it wins or had won.
func (s *scheduler) home(key uint64) *member {
	var best *member
	var highest uint64
	for _, m := range s.members {
		if n := mix(key ^ mix(m.seat)); best == nil || n > highest {
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

func (s *scheduler) start(m *member, now time.Duration) {
	m.running++
	s.runs.add(1, now)
	s.peak = max(s.peak, s.runs.level+s.queued)
}

// release ends a call, which began to run at began, and gives its place to
// another. o is how it has ended.
func (s *scheduler) release(m *member, began, now time.Duration, o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.running--
	s.runs.add(-1, now)
	record(s.runTimes, now-began)
	s.counts.ended++
	if o.again {
		s.returning++
		s.counts.retried++
	} else if o.failed {
		s.counts.failed++
	}
	if o.silent {
		m.silent++
	} else {
		m.silent = 0
	}
	if m.calls++; m.calls == s.wear {
		close(m.worn)
	}
	if m.serving {
		s.feed(m, now)
	} else if m.running == 0 && m.idle != nil {
		close(m.idle)
	}
	s.settle()
}

// push puts w into the queue of its member, or of all if m is nil or w has no key.
func (s *scheduler) push(w *waiter, m *member) {
	w.list = &s.waiting
	if w.key != 0 && m != nil {
		w.list = &m.waiting
	}
	w.element = w.list.PushBack(w)
}

// pop takes w out of the queue.
func (s *scheduler) pop(w *waiter) {
	w.list.Remove(w.element)
	w.list = nil
	s.queued--
}

// feed gives waiting calls to m while it has room, in the order in which they came.
func (s *scheduler) feed(m *member, now time.Duration) {
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
		w.member, w.began = m, now
		w.ready <- struct{}{}
	}
}

func first(l *list.List) *waiter {
	if e := l.Front(); e != nil {
		return e.Value.(*waiter)
	}
	return nil
}

// abandon takes a call out of the queue. It returns false if the call was given
// to a member, or failed, meanwhile.
func (s *scheduler) abandon(w *waiter) bool {
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

// add makes a member serve.
func (s *scheduler) add(m *member, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.insert(m, now)
	s.rehome(nil, now)
}

func (s *scheduler) insert(m *member, now time.Duration) {
	i, _ := slices.BinarySearchFunc(s.members, m.seat, func(m *member, seat uint64) int { return cmp.Compare(m.seat, seat) })
	s.members = slices.Insert(s.members, i, m)
	m.serving = true
	s.places.add(s.concurrency, now)
}

// remove makes a member serve no longer. The calls that it runs go on, and those
// that wait for it go elsewhere.
func (s *scheduler) remove(m *member, now time.Duration) { s.replace(m, nil, now) }

// replace puts a member, or nobody, into another's place.
func (s *scheduler) replace(old, m *member, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old.serving {
		s.withdraw(old, now)
	}
	if m != nil {
		s.insert(m, now)
	}
	s.rehome(old, now)
}

// lose is remove for a member that is found broken, and tells its seat.
func (s *scheduler) lose(m *member, fault error, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.serving {
		s.withdraw(m, now)
		s.rehome(m, now)
		m.fault = fault
		close(m.lost)
	}
}

func (s *scheduler) withdraw(m *member, now time.Duration) {
	m.serving = false
	s.members = slices.DeleteFunc(s.members, func(other *member) bool { return other == m })
	s.places.add(-s.concurrency, now)
}

// drained returns a channel that is closed when m, which serves no longer, runs
// no call. It is called once for a member.
func (s *scheduler) drained(m *member) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.idle = make(chan struct{})
	if m.running == 0 {
		close(m.idle)
	}
	return m.idle
}

// rehome finds the homes of all waiting calls with a key anew, since members
// have come or gone, and gives members with room what they may serve.
func (s *scheduler) rehome(gone *member, now time.Duration) {
	var keyed []*waiter
	collect := func(l *list.List) {
		for e := l.Front(); e != nil; {
			w := e.Value.(*waiter)
			if e = e.Next(); w.key != 0 {
				l.Remove(w.element)
				keyed = append(keyed, w)
			}
		}
	}
	collect(&s.waiting)
	if gone != nil {
		collect(&gone.waiting)
	}
	for _, m := range s.members {
		collect(&m.waiting)
	}
	slices.SortFunc(keyed, func(a, b *waiter) int { return cmp.Compare(a.ticket, b.ticket) })
	for _, w := range keyed {
		s.push(w, s.home(w.key))
	}
	for _, m := range s.members {
		s.feed(m, now)
	}
}

// close lets no more calls in. Those that wait go on to. It returns a channel
// that is closed when no call waits or runs.
func (s *scheduler) close() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	quiet := make(chan struct{})
	s.closed, s.quiet = true, quiet
	s.settle()
	return quiet
}

// settle tells who waits for it that no call waits, runs or comes again.
func (s *scheduler) settle() {
	if s.quiet != nil && s.queued == 0 && s.returning == 0 && s.runs.level == 0 {
		close(s.quiet)
		s.quiet = nil
	}
}

// setDown says that nobody will serve, and why: calls that wait or come later
// fail with err. nil takes it back.
func (s *scheduler) setDown(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down = err; err == nil {
		return
	}
	fail := func(l *list.List) {
		for w := first(l); w != nil; w = first(l) {
			s.pop(w)
			w.err = err
			w.ready <- struct{}{}
		}
	}
	fail(&s.waiting)
	for _, m := range s.members {
		fail(&m.waiting)
	}
	s.settle()
}

// wanted returns how many members the most calls since the last time would have
// needed.
func (s *scheduler) wanted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	peak := s.peak
	s.peak = s.runs.level + s.queued
	return (peak + s.concurrency - 1) / s.concurrency
}

// lacking returns how many members the calls need that wait now, at least 1: it
// is asked since a call has found no room, and that one may not wait.
func (s *scheduler) lacking() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max((s.queued+s.concurrency-1)/s.concurrency, 1)
}
