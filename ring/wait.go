package ring

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Wait says how to wait for the peer: spin, park, or spin first and park then.
type Wait int

const (
	// WaitAdaptive spins for as long as spinning has lately paid off on this
	// ring, at most about 50 microseconds, then parks. It is the default.
	WaitAdaptive Wait = iota
	// WaitSpin never parks. It costs a processor, and yields regularly both
	// to other goroutines and to other processes.
	WaitSpin
	// WaitPark parks at once: the least processor time, the most latency.
	WaitPark
)

// String returns "adaptive", "spin" or "park".
func (w Wait) String() string {
	switch w {
	case WaitAdaptive:
		return "adaptive"
	case WaitSpin:
		return "spin"
	case WaitPark:
		return "park"
	}
	return "invalid"
}

// Sleeping and ringing, for data and for space alike:
//
//	waiter X                                waker Y
//	b := load Y.bell                        publish
//	store X.waiting = parked, new epoch     w := load X.waiting
//	look again                              if parked and not rung for w yet:
//	FUTEX_WAIT(Y.bell, b)                       Y.bell++; FUTEX_WAKE(Y.bell)
//	store X.waiting = none
//
// All of these are sequentially consistent, so either X's second look sees what
// Y published, or Y's load sees that X is parked. In the latter case the bell
// changes before the wake, so X's FUTEX_WAIT either has begun, and is woken, or
// finds that the bell is no longer b, and does not begin.
//
// The bell has to be loaded first. Between Y's publishing and its load of
// X.waiting X may have read the record and armed again: then Y rings for what
// was read, and will not ring for this arming another time. With b loaded before,
// FUTEX_WAIT does not begin, and X arms anew. That is why Consumer.Arm keeps the
// bell's value for Consumer.Sleep, which may run in another goroutine.
//
// Local goroutines end a sleep by another way, since X cannot write Y.bell: they
// set a flag that the sleeper looks at last, and wake the word's sleepers until
// this one says that it is out. The wake can come between the look and the
// sleep and hit nobody; then the next one hits.

// sleeper is the local half of sleeping on a bell of the peer.
type sleeper struct {
	bell   *uint32 // the peer's: only ever loaded
	woken  atomic.Bool
	asleep atomic.Bool

	yielded time.Duration // when it last did, on clock; the sleeping goroutine's
}

// prepare starts a sleep and returns the bell's value to sleep on. The caller
// looks at what it waits for, and then calls block or cancel.
func (s *sleeper) prepare() uint32 {
	// SYNC: pairs with sleeper.wake, which stores woken and then loads asleep.
	s.asleep.Store(true)
	// SYNC: pairs with Producer.ring and Consumer.publish of the peer, which
	// add to the bell after they have stored what it rings for.
	return atomic.LoadUint32(s.bell)
}

// block sleeps until the bell has changed, or wake is called, or for no reason.
func (s *sleeper) block(bell uint32) {
	if !s.woken.Load() {
		s.sleepOn(bell)
	}
	s.cancel()
}

// cancel ends a sleep. A wake that came during it has done its work.
func (s *sleeper) cancel() {
	s.woken.Store(false)
	s.asleep.Store(false)
}

// wake ends the sleep that is going on, or else the next one. Any goroutine may
// call it at any time.
func (s *sleeper) wake() {
	// SYNC: pairs with sleeper.prepare, which stores asleep, and
	// sleeper.block, which then loads woken.
	s.woken.Store(true)
	for i := 0; s.asleep.Load() && s.woken.Load(); i++ {
		futexWake(s.bell)
		if i < 8 {
			runtime.Gosched()
		} else {
			nap(min(time.Duration(i)*time.Microsecond, time.Millisecond))
		}
	}
}

// A failure is an error that is set once by any goroutine, and then stays.
type failure struct{ err atomic.Pointer[error] }

func (f *failure) set(err error) { f.err.CompareAndSwap(nil, &err) }

func (f *failure) get() error {
	if p := f.err.Load(); p != nil {
		return *p
	}
	return nil
}
