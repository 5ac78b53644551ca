package scheduler

import (
	"cmp"
	"container/list"
	"slices"
	"time"
)

// Join makes a member serve.
func (s *Scheduler) Join(m *Member, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.insert(m, now)
	s.assign(nil, now)
}

func (s *Scheduler) insert(m *Member, now time.Duration) {
	i, _ := slices.BinarySearchFunc(s.members, m.Slot, func(m *Member, seat uint64) int { return cmp.Compare(m.Slot, seat) })
	s.members = slices.Insert(s.members, i, m)
	m.serving = true
	s.places.change(s.concurrency, now)
}

// Leave makes a member serve no longer. The calls that it runs go on, and those
// that wait for it go elsewhere.
func (s *Scheduler) Leave(m *Member, now time.Duration) { s.Replace(m, nil, now) }

// Replace puts a member, or nobody, into another's place.
func (s *Scheduler) Replace(old, m *Member, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old.serving {
		s.withdraw(old, now)
	}
	if m != nil {
		s.insert(m, now)
	}
	s.assign(old, now)
}

// Lose is Leave for a member that is found broken, and tells its slot.
func (s *Scheduler) Lose(m *Member, fault error, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.serving {
		s.withdraw(m, now)
		s.assign(m, now)
		m.Fault = fault
		close(m.Lost)
	}
}

func (s *Scheduler) withdraw(m *Member, now time.Duration) {
	m.serving = false
	s.members = slices.DeleteFunc(s.members, func(other *Member) bool { return other == m })
	s.places.change(-s.concurrency, now)
}

// Drained returns a channel that is closed when m, which serves no longer, runs
// no call. It is called once for a member.
func (s *Scheduler) Drained(m *Member) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.idle = make(chan struct{})
	if m.running == 0 {
		close(m.idle)
	}
	return m.idle
}

// assign finds the owners of all waiting calls with a key anew, since members
// have come or gone, and gives members with room what they may serve.
func (s *Scheduler) assign(gone *Member, now time.Duration) {
	var keyed []*Waiter
	collect := func(l *list.List) {
		for e := l.Front(); e != nil; {
			w := e.Value.(*Waiter)
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
	slices.SortFunc(keyed, func(a, b *Waiter) int { return cmp.Compare(a.ticket, b.ticket) })
	for _, w := range keyed {
		s.push(w, s.owner(w.key))
	}
	for _, m := range s.members {
		s.feed(m, now)
	}
}

// Members returns the members that serve now, by slot.
func (s *Scheduler) Members() []*Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.members)
}
