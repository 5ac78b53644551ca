package ring

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// crowd makes goroutines that take turns with those that yield: each runs for so long, and then
// yields, too. The test's processors are fewer than they are.
func crowd(t *testing.T, turn time.Duration) {
	var end atomic.Bool
	n := 2 * runtime.GOMAXPROCS(0)
	ended := make(chan struct{}, n)
	for range n {
		go func() {
			for !end.Load() {
				for start := clock(); clock()-start < turn; {
				}
				runtime.Gosched()
			}
			ended <- struct{}{}
		}()
	}
	t.Cleanup(func() {
		end.Store(true)
		for range n {
			<-ended
		}
	})
}

// takeAllSlots takes the slots of the process until release is called.
func takeAllSlots(t *testing.T) (release func()) {
	var all []slot
	for {
		var s slot
		if !s.take(clock(), clock()+time.Hour) {
			break
		}
		all = append(all, s)
	}
	require.NotEmpty(t, all)
	return func() {
		for i := range all {
			all[i].giveBack()
		}
	}
}

// waits lets s wait until it gives up, at most for so many polls, and reports whether it has.
func waits(s *spinner, most int) (gaveUp bool) {
	for range most {
		if !s.again() {
			return true
		}
	}
	return false
}

// A spinner without a slot yields, as long as others run meanwhile, and a few times at most. Once
// that has paid off, the next waits begin so, and now and then one does not.
func TestSpinnerShares(t *testing.T) {
	if oneProcessor {
		t.Skip("nobody spins on one processor")
	}
	freshSlots(t)
	release := takeAllSlots(t)
	var s spinner
	patient(&s)

	// Nobody else runs, as a rule: a system may run others meanwhile, which looks the same.
	for i := 0; ; i++ {
		require.True(t, waits(&s, spinClock+maxYields+1), "it is no spinner")
		if s.yields == 0 {
			break
		}
		require.Less(t, i, 1000, "it finds a crowd where there is none")
		s.end()
	}
	require.Zero(t, s.crowded)
	s.end()

	crowd(t, 10*longYield)
	// A turn may last too long, on a busy machine.
	for i := 0; ; i++ {
		budget := s.budget
		waits(&s, spinClock+3)
		if s.shares && !s.gaveUp {
			require.Nil(t, s.slot.at)
			s.end()
			require.EqualValues(t, crowdedWaits, s.crowded)
			require.Equal(t, budget, s.budget, "it has learnt nothing about its peer")
			break
		}
		require.Less(t, i, 1000, "it never yields")
		s.end()
	}

	// The next waits begin with a yield, but for one now and then.
	release()
	for left := crowdedWaits; left > 0; left-- {
		require.EqualValues(t, left, s.crowded)
		require.True(t, s.again())
		s.end()
	}
	require.Zero(t, s.crowded)
	s.again()
	require.False(t, s.shares, "this one looks whether the peer is quick")
	s.end()
	require.Zero(t, slotsTaken())
}

// One that shares gives up in the end, whatever others do.
func TestSpinnerSharesForAWhile(t *testing.T) {
	if oneProcessor {
		t.Skip("nobody spins on one processor")
	}
	freshSlots(t)
	defer takeAllSlots(t)()
	crowd(t, 2*longYield)
	var s spinner
	for range 20 {
		patient(&s)
		require.True(t, waits(&s, spinClock+maxYields+1))
		require.LessOrEqual(t, int(s.yields), maxYields)
		require.True(t, s.denied)
		s.end()
		require.Zero(t, s.crowded, "it has not paid off")
	}
}

// Goroutines that compute are no crowd: who waits for them in vain parks.
func TestSpinnerDoesNotShareWithWhatComputes(t *testing.T) {
	if oneProcessor {
		t.Skip("nobody spins on one processor")
	}
	freshSlots(t)
	defer takeAllSlots(t)()
	crowd(t, 2*longestYield)
	var s spinner
	for i := 0; ; i++ {
		patient(&s)
		require.True(t, waits(&s, spinClock+maxYields+1))
		if s.yields == 0 {
			return
		}
		require.Less(t, i, 100, "it takes them for a crowd")
	}
}

// The holder of a slot gives it to others while it yields, and takes one again when nobody
// else runs any more.
func TestSlotHolderShares(t *testing.T) {
	if oneProcessor {
		t.Skip("nobody spins on one processor")
	}
	freshSlots(t)
	var s spinner
	patient(&s)
	t.Run("crowd", func(t *testing.T) {
		crowd(t, 10*longYield)
		for i := 0; !s.shares; i++ {
			require.True(t, s.again())
			require.Less(t, i, 1000*spinYield, "it never yields")
			if s.polls > 4*spinYield { // a turn may last too long, on a busy machine
				patient(&s)
			}
		}
		require.Zero(t, slotsTaken())
	})
	for i := 0; s.shares || s.slot.at == nil; i++ {
		require.True(t, s.again(), "its budget is not used up")
		require.Less(t, i, 1000*spinYield, "it does not take a slot again")
	}
	require.Equal(t, 1, slotsTaken())
	s.end()
	require.Zero(t, slotsTaken())
}

// One that never waits for long yields as well, now and then, while others do.
func TestQuickSpinnerTakesTurns(t *testing.T) {
	if oneProcessor {
		t.Skip("nobody spins on one processor")
	}
	freshSlots(t)
	crowd(t, 10*longYield)
	var s spinner
	for range 4 * longestTurn {
		patient(&s)
		require.True(t, s.again())
		require.False(t, s.shares, "nobody yields")
	}
	yielding.Add(1) // as another one does
	defer yielding.Add(-1)
	shared := 0
	for waits := 0; shared == 0; waits++ { // a turn of another may last too long, on a busy machine
		for range longestTurn {
			patient(&s)
			require.True(t, s.again())
			if s.shares {
				shared++
			}
		}
		require.LessOrEqual(t, shared, 1, "in so many waits")
		require.Less(t, waits, 1000)
	}
}
