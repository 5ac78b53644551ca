package wait

import (
	"runtime"
	"sync/atomic"
	"time"
)

// A Sleeper is the local half of sleeping on a bell of the peer.
type Sleeper struct {
	// Bell is the peer's: only ever loaded.
	Bell *uint32

	woken  atomic.Bool
	asleep atomic.Bool

	yielded time.Duration // when it last did, on clock; the sleeping goroutine's
}

// Prepare starts a sleep and returns the bell's value to sleep on. The caller
// looks at what it waits for, and then calls Block or Cancel.
func (s *Sleeper) Prepare() uint32 {
	// SYNC: pairs with Sleeper.Wake, which stores woken and then loads asleep.
	s.asleep.Store(true)
	// SYNC: pairs with whoever rings, and adds to the bell after having stored what
	// it rings for.
	return atomic.LoadUint32(s.Bell)
}

// Block sleeps until the bell has changed, or Wake is called, or for no reason.
func (s *Sleeper) Block(bell uint32) {
	if !s.woken.Load() {
		s.sleepOn(bell)
	}
	s.Cancel()
}

// BlockFor is Block, except that it also ends after d, which is positive.
func (s *Sleeper) BlockFor(bell uint32, d time.Duration) {
	if !s.woken.Load() {
		s.sleepFor(bell, d)
	}
	s.Cancel()
}

// Poll sleeps for a peer that does not ring: until until is true, or Wake is called, or
// for about 10 milliseconds. It looks again and again, with growing pauses.
func (s *Sleeper) Poll(until func() bool) {
	poll(func() bool { return s.woken.Load() || until() })
	s.Cancel()
}

// Cancel ends a sleep. A wake that came during it has done its work.
func (s *Sleeper) Cancel() {
	s.woken.Store(false)
	s.asleep.Store(false)
}

// Wake ends the sleep that is going on, or else the next one. Any goroutine may
// call it at any time.
func (s *Sleeper) Wake() {
	// SYNC: pairs with Sleeper.Prepare, which stores asleep, and
	// Sleeper.Block, which then loads woken.
	s.woken.Store(true)
	for i := 0; s.asleep.Load() && s.woken.Load(); i++ {
		FutexWake(s.Bell)
		if i < 8 {
			runtime.Gosched()
		} else {
			nap(min(time.Duration(i)*time.Microsecond, time.Millisecond))
		}
	}
}
