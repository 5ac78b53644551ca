package socket

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// waiter is what Sleep, Wake and Arm share.
type waiter struct {
	// mu is held by Sleep, so that Close can wait for it.
	mu sync.Mutex
	// armed: a sleeper cares for what arrives. Otherwise whoever polls the link
	// would wake it with each frame.
	armed atomic.Bool
	// woken is set by Wake and taken back by the Sleep that it ends.
	woken atomic.Bool

	until  func() bool        // of the Sleep that runs
	looked bool               // it has looked at the socket itself
	look   func(uintptr) bool // made once: a closure per Sleep would be garbage
}

func (w *waiter) init(l *link) {
	w.look = func(uintptr) bool {
		if w.woken.Load() || l.end.Load() != nil || w.until() {
			return true
		}
		if !w.armed.Load() {
			return false
		}
		// Later calls come after an event, which is reason enough.
		first := !w.looked
		w.looked = true
		return !first || l.Ready()
	}
}

// Arm makes Sleep return for what arrives. Data that came before the store is
// found by the caller's look at Ready, and later data makes the netpoller look.
func (l *link) Arm() { l.waiter.armed.Store(true) }

// Disarm takes Arm back.
func (l *link) Disarm() { l.waiter.armed.Store(false) }

// Ready reports whether Next would return a frame or an error. It may be wrong
// in one way: it takes a part of a frame that lies in the socket for a frame.
func (l *link) Ready() bool {
	if l.reader.complete.Load() || l.end.Load() != nil {
		return true
	}
	l.fdMu.RLock()
	defer l.fdMu.RUnlock()
	return l.closed.Load() || poll(l.fd)
}

// Sleep waits in the netpoller, so that a sleeping link holds no thread.
func (l *link) Sleep(until func() bool) {
	w := &l.waiter
	w.mu.Lock()
	defer w.mu.Unlock()
	if until() {
		return
	}
	w.until, w.looked = until, false
	// The read side is made ready before look is called for the first time, so
	// what arrives after that look is an event that calls it again.
	err := l.raw.Read(w.look)
	w.until = nil
	if woken := w.woken.Swap(false); woken || err != nil {
		// A Wake that comes before this reset has set woken again, and ends
		// the next Sleep by that; a deadline it sets afterwards does too.
		_ = l.conn.SetReadDeadline(time.Time{})
	}
}

// Wake ends the Sleep that runs, or else the next one.
func (l *link) Wake() {
	if !l.waiter.woken.Swap(true) {
		_ = l.conn.SetReadDeadline(past)
	}
}

// spinner decides whether polling the socket a few times more pays. Each poll
// is a system call, so this is short at best, and it shrinks to almost nothing
// where the answers come too late for it.
type spinner struct {
	tries  int // in this wait
	budget int // tries that the next wait gets
	idle   int // waits since the last probe
}

const (
	maxSpin   = 32
	probeSpin = 8  // tries of a probe
	probeGap  = 64 // waits between probes while the budget is nil
)

// next reports whether to try once more.
func (s *spinner) next() bool {
	if s.tries < s.budget {
		s.tries++
		return true
	}
	if s.tries > 0 {
		s.budget /= 2
	} else if s.idle++; s.idle >= probeGap {
		s.idle = 0
		s.budget = probeSpin
	}
	s.tries = 0
	return false
}

// found is called when a frame came, perhaps after some tries.
func (s *spinner) found() {
	if s.tries > 0 {
		s.budget = min(max(2*s.tries, s.budget), maxSpin)
		s.tries = 0
	}
}

// Spin pauses for a moment and reports whether to ask Next again.
func (l *link) Spin() bool {
	if !l.reader.spin.next() {
		return false
	}
	runtime.Gosched()
	return true
}
