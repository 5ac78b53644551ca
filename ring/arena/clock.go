package arena

import "time"

// The arena's clock counts nanoseconds since the arena was made, from 1, and moves at ticks.
// So blocks get a time without anybody looking at a clock. It runs while blocks are handed
// out, and stands at 0 when none has been since the last tick: whoever hands a block out, or
// frees the last one of a slab, starts it then. It is -1 when the arena is closed.
//
// There is one timer: for the next tick while the clock runs, and for the moment when idle
// memory is to be given back, if there is any, while it stands.

// closedClock is what the clock shows when the arena is closed.
const closedClock = -1

func (a *Arena) now() int64 { return int64(time.Since(a.base)) + 1 }

// startClock returns the time, and whether the arena is closed. If it is not, the clock runs
// from now on.
func (a *Arena) startClock() (now int64, closed bool) {
	a.timerMu.Lock()
	defer a.timerMu.Unlock()
	now = a.clock.Load()
	switch now {
	case closedClock:
		return a.now(), true
	case 0:
		now = a.now()
		a.clock.Store(now)
		a.setTimer(a.period)
	}
	return now, false
}

// setTimer sets the timer to d from now, or stops it if d is negative. timerMu is held.
func (a *Arena) setTimer(d time.Duration) {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	if d >= 0 {
		a.timer = time.AfterFunc(d, a.tick)
	}
}

// setClock moves the clock and sets the timer, as setTimer does. It reports whether the arena
// is not closed.
func (a *Arena) setClock(now int64, next time.Duration) bool {
	a.timerMu.Lock()
	defer a.timerMu.Unlock()
	if a.clock.Load() == closedClock {
		return false
	}
	a.clock.Store(now)
	a.setTimer(next)
	return true
}

// stopClock ends the clock for good.
func (a *Arena) stopClock() {
	a.timerMu.Lock()
	defer a.timerMu.Unlock()
	a.clock.Store(closedClock)
	a.setTimer(-1)
}

// tick moves the clock, gives idle memory back, and stops the clock if nobody needs it.
func (a *Arena) tick() {
	a.grow.Lock()
	defer a.grow.Unlock()
	now := a.now()
	counted := a.countAllocs()
	busy := counted != a.counted
	a.counted = counted
	if busy {
		if !a.setClock(now, a.period) {
			return
		}
	} else if !a.setClock(0, -1) {
		return
	}
	if a.idle < 0 {
		return
	}
	// A period more, since the time when a block was freed can be that of the tick before.
	keep := int64(a.idle + a.period)
	_, _ = a.giveBack(now - keep)
	if busy {
		return
	}
	// Whoever has freed a block since the clock stands has seen that, and started it. Those
	// who did so before have not, so what they have left is looked for.
	freedAt, ok := a.idleSince()
	a.timerMu.Lock()
	defer a.timerMu.Unlock()
	if ok && a.clock.Load() == 0 {
		a.setTimer(time.Duration(max(freedAt+keep-now, 0)))
	}
}

// countAllocs returns how many blocks have been handed out.
func (a *Arena) countAllocs() (n uint64) {
	for i := range a.classes {
		c := &a.classes[i]
		c.mu.Lock()
		n += c.allocs
		c.mu.Unlock()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return n + a.large.allocs
}
