package wait

import (
	"runtime"
	"sync/atomic"
	"time"
)

// A goroutine that spins keeps a thread of the Go scheduler busy. So a process
// has one spinner less than it may have running goroutines, though at least one;
// others park at once. A spinner that spins for longer than a moment holds a slot.
//
// A slot is held until a deadline: the end of the holder's budget, when the holder
// stops spinning in any case. Every way of leaving a wait returns the slot at once.
// A holder may also leave its wait in the middle and never come back. Then the
// slot is free at the deadline, a fraction of a millisecond later. So no slot is
// ever lost.

// maxSlots bounds the spinners of a process, however many processors it has.
const maxSlots = 256

// spinSlots holds for each slot the time, on clock, until which it is taken.
var spinSlots [maxSlots]atomic.Int64

// usableSlots is how many slots may be taken, as of the time in slotsAt. It is 0
// if that is not known yet.
var (
	usableSlots atomic.Int32
	slotsAt     atomic.Int64
)

// slotsFor is how long usableSlots is used before it is renewed, since
// runtime.GOMAXPROCS takes a lock.
const slotsFor = 100 * time.Millisecond

// slot is one spinner's hold of a slot. The zero slot holds none.
type slot struct {
	at    *atomic.Int64 // in spinSlots; nil if none is held
	until int64         // what the holder stored there
}

// take takes a free slot until a time after now. It reports whether there was one.
func (s *slot) take(now, until time.Duration) bool {
	s.giveBack()
	for i := range spinSlots[:usableSpinSlots(now)] {
		at := &spinSlots[i]
		if held := at.Load(); held <= int64(now) && at.CompareAndSwap(held, int64(until)) {
			s.at, s.until = at, int64(until)
			return true
		}
	}
	return false
}

// giveBack frees the slot if one is held. A slot whose deadline has passed may have
// a new holder, which has stored a later deadline and keeps it.
func (s *slot) giveBack() {
	if s.at != nil {
		s.at.CompareAndSwap(s.until, 0)
		s.at = nil
	}
}

// usableSpinSlots is how many slots may be taken now: one less than the process has
// processors, though at least one.
func usableSpinSlots(now time.Duration) int {
	n := usableSlots.Load()
	// Unsigned: the value is also renewed when a test has set the clock back.
	if age := uint64(int64(now) - slotsAt.Load()); n == 0 || age > uint64(slotsFor) {
		n = int32(min(max(1, runtime.GOMAXPROCS(0)-1), maxSlots))
		slotsAt.Store(int64(now))
		usableSlots.Store(n)
	}
	return int(n)
}
