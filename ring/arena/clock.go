package arena

import "time"

// The arena's clock counts nanoseconds since the arena was made, from 1, and moves at ticks.
// So blocks get a time without anybody looking at a clock. It runs while blocks are handed
// out or there is memory to give back, and is 0 when it does not run: whoever hands a block
// out, or frees the last one of a slab, starts it then. It is -1 when the arena is closed.

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
		a.timer = time.AfterFunc(a.period, a.tick)
	}
	return now, false
}

// stopClock ends the clock for good.
func (a *Arena) stopClock() {
	a.timerMu.Lock()
	defer a.timerMu.Unlock()
	a.clock.Store(closedClock)
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}

// setClock moves the clock, or stops it if now is 0. It reports whether the arena is not
// closed.
func (a *Arena) setClock(now int64) bool {
	a.timerMu.Lock()
	defer a.timerMu.Unlock()
	if a.clock.Load() == closedClock {
		return false
	}
	if a.clock.Store(now); now == 0 {
		a.timer = nil
	}
	return true
}

// tick moves the clock, gives idle memory back, and stops the clock if nobody needs it.
func (a *Arena) tick() {
	a.grow.Lock()
	defer a.grow.Unlock()
	now := a.now()
	if !a.setClock(now) {
		return
	}
	if a.idle > 0 {
		// A tick more, since the time when a block was freed is that of the tick before.
		_, _ = a.giveBack(now - int64(a.idle+a.period))
	}
	counted := a.countAllocs()
	busy := counted != a.counted
	a.counted = counted
	if !busy && !a.ripening() {
		if !a.setClock(0) {
			return
		}
		// Whoever frees a block from here on sees that the clock stands. Those who did
		// so before did not, so what they have left is looked for.
		if a.ripening() {
			a.startClock()
		}
		return
	}
	a.timerMu.Lock()
	defer a.timerMu.Unlock()
	if a.clock.Load() != closedClock {
		a.timer = time.AfterFunc(a.period, a.tick)
	}
}

// ripening reports whether there is memory that a later tick gives back. grow is held.
func (a *Arena) ripening() bool { return a.idle > 0 && a.idleMemory() }

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
