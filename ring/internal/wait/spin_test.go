package wait

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// freshSlots makes the slots as they are at the start of a process, now and after
// the test.
func freshSlots(t *testing.T) {
	ResetSlots()
	t.Cleanup(ResetSlots)
}

// patient gives s a budget that no test exhausts: a slot that s holds is not
// freed by its deadline.
func patient(s *Spinner) {
	s.Begin()
	s.SetBudget(time.Hour)
}

// spinLong makes s spin past the moment that needs no slot. It reports whether s may
// spin on.
func spinLong(s *Spinner) bool {
	for range spinClock {
		if !s.Again() {
			return false
		}
	}
	return true
}

func TestSpinnersAreFew(t *testing.T) {
	if oneProcessor {
		t.Skip("nobody spins on one processor")
	}
	freshSlots(t)
	limit := max(1, runtime.GOMAXPROCS(0)-1)
	all := make([]Spinner, limit+1)
	for i := range all {
		patient(&all[i])
	}
	for i := range limit {
		require.True(t, spinLong(&all[i]))
	}
	last := &all[limit]
	require.False(t, spinLong(last), "one too many")
	budget := last.budget
	last.End()
	require.Equal(t, budget, last.budget, "it has learnt nothing about its peer")

	all[0].End()
	require.True(t, spinLong(last), "there is room again")
	for i := range all {
		all[i].End()
	}
	require.Zero(t, SlotsTaken())
}

// A spinner that comes back after its deadline leaves the slot to the new holder.
func TestSlotHasOneHolder(t *testing.T) {
	freshSlots(t)
	var late, other, third slot
	now := clock()
	slotsAt.Store(int64(now))
	usableSlots.Store(1)
	require.True(t, late.take(now, now+10))
	require.False(t, other.take(now+9, now+30), "it is taken")
	require.True(t, other.take(now+10, now+30), "the deadline has passed")
	late.giveBack()
	late.giveBack()
	require.False(t, third.take(now+11, now+40), "it is still taken")
	other.giveBack()
	require.True(t, third.take(now+11, now+40))
	require.True(t, third.take(now+12, now+50), "taking again gives back what is held")
	third.giveBack()
	require.Zero(t, SlotsTaken())
}

func TestSpinnerLearns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock moves when we say so
		if oneProcessor {
			t.Skip("never spins with one processor")
		}
		freshSlots(t)
		defer func(base time.Time) { clockBase = base }(clockBase)
		clockBase = time.Now()
		var s Spinner
		// wait is one that takes d, and reports whether spinning caught it.
		wait := func(d time.Duration) bool {
			begin := time.Now()
			for time.Since(begin) < d {
				if !s.Again() {
					time.Sleep(d - time.Since(begin))
					s.End()
					return false
				}
				time.Sleep(20 * time.Nanosecond)
			}
			s.End()
			return true
		}
		require.True(t, wait(10*time.Microsecond), "starts by spinning")
		for range 10 {
			wait(time.Millisecond)
		}
		require.Zero(t, s.budget)
		require.False(t, s.Again(), "gives up at once")
		s.Begin()
		require.False(t, wait(10*time.Microsecond))
		require.True(t, wait(10*time.Microsecond), "a short wait brings it back")
		for range 10 {
			wait(time.Millisecond)
		}
		require.False(t, wait(80*time.Microsecond))
		caught := 0
		for range 10 * probeEvery {
			if wait(80 * time.Microsecond) {
				caught++
			}
		}
		require.InDelta(t, 10, caught, 5, "probes now and then")
		// A peer that needs our processor answers when we have stopped spinning.
		// Spinning has to end, also where the whole wait is short.
		require.True(t, waitUntil(&s, wait), "spins again")
		var spun time.Duration
		for range 10 * probeEvery {
			begin := time.Now()
			for s.Again() {
				time.Sleep(20 * time.Nanosecond)
			}
			spun += time.Since(begin)
			time.Sleep(5 * time.Microsecond)
			s.End()
		}
		require.Less(t, spun/(10*probeEvery), spinMax/5, "on average")

		s.SetMode(Park)
		require.False(t, s.Again())
		s.SetMode(Spin)
		for range 3 * spinOSYield {
			require.True(t, s.Again())
		}
	})
}

// waitUntil waits shortly until that is caught, as it is at a probe at the latest.
func waitUntil(s *Spinner, wait func(time.Duration) bool) bool {
	for range 2 * probeEvery {
		if wait(10 * time.Microsecond) {
			return true
		}
	}
	return false
}
