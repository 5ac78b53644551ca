package arena

import (
	"errors"
	"math"
	"slices"
)

// Trim gives all memory back that has no blocks, however short the time.
func (a *Arena) Trim() {
	a.grow.Lock()
	defer a.grow.Unlock()
	_, _ = a.giveBack(math.MaxInt64) // as with the timer, there is nobody to tell
	a.timerMu.Lock()
	defer a.timerMu.Unlock()
	if a.clock.Load() == 0 { // so nobody has freed a block since
		a.setTimer(-1)
	}
}

// giveBack gives back what has had no block since the time cutoff, and returns how many
// regions that were. grow is held.
func (a *Arena) giveBack(cutoff int64) (int, error) {
	a.detach(cutoff)
	var regions []*Region
	a.mu.Lock()
	a.regions = slices.DeleteFunc(a.regions, func(r *Region) bool {
		if r.free == r.all {
			regions = append(regions, r)
			return true
		}
		return false
	})
	for s := a.large.oldestIdle(); s != nil && s.freedAt <= cutoff; s = a.large.oldestIdle() {
		a.large.remove(s)
		regions = append(regions, s.region)
	}
	a.mu.Unlock()
	var errs []error
	for _, r := range regions {
		errs = append(errs, a.drop(r))
	}
	return len(regions), errors.Join(errs...)
}

// detach takes the slabs that have had no block since the time cutoff from their classes, so
// that their units can be used for other slabs. It returns how many there were. grow is
// held.
func (a *Arena) detach(cutoff int64) (n int) {
	for i := range a.classes {
		slabs := a.classes[i].detach(cutoff)
		if len(slabs) == 0 {
			continue
		}
		n += len(slabs)
		a.mu.Lock()
		for _, s := range slabs {
			s.region.free |= s.units
		}
		a.mu.Unlock()
	}
	return n
}

// giveBackUntil gives back what has no block, bit by bit and the oldest large ones first,
// until try succeeds or nothing is left to give back. grow is held.
func (a *Arena) giveBackUntil(try func() bool) {
	for {
		a.mu.Lock()
		s := a.large.oldestIdle()
		if s != nil {
			a.large.remove(s)
		}
		a.mu.Unlock()
		if s == nil {
			break
		}
		_ = a.drop(s.region)
		if try() {
			return
		}
	}
	if n, _ := a.giveBack(math.MaxInt64); n > 0 {
		try()
	}
}

// drop gives back a region that is in no list any more. grow is held.
func (a *Arena) drop(r *Region) error {
	if r.mem != nil {
		a.mu.Lock()
		onDrop := a.onDrop
		a.mu.Unlock()
		for _, fn := range onDrop {
			fn(r)
		}
	}
	err := r.close()
	a.mu.Lock()
	a.reserved -= int64(r.size)
	a.mu.Unlock()
	return err
}

// sweepClosed gives back what has become free since the arena was closed.
func (a *Arena) sweepClosed() { a.Trim() }

// idleSince returns since when the memory has had no blocks that is to be given back next, if
// there is any. Only regions without slabs are left out, which are given back by each tick
// anyway. grow is held.
func (a *Arena) idleSince() (freedAt int64, ok bool) {
	freedAt = math.MaxInt64
	for i := range a.classes {
		c := &a.classes[i]
		c.mu.Lock()
		if s := c.empty.last; s != nil {
			freedAt = min(freedAt, s.freedAt)
		}
		c.mu.Unlock()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.large.oldestIdle(); s != nil {
		freedAt = min(freedAt, s.freedAt)
	}
	return freedAt, freedAt < math.MaxInt64
}
