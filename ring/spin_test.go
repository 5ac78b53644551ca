package ring

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// slotsTaken counts the spin slots that are held.
func slotsTaken() (n int) {
	now := int64(clock())
	for i := range spinSlots {
		if spinSlots[i].Load() > now {
			n++
		}
	}
	return n
}

// freshSlots makes the slots as they are at the start of a process, now and after
// the test.
func freshSlots(t *testing.T) {
	reset := func() {
		for i := range spinSlots {
			spinSlots[i].Store(0)
		}
		usableSlots.Store(0)
	}
	reset()
	t.Cleanup(reset)
}

// patient gives s a budget that no test exhausts: a slot that s holds is not
// freed by its deadline.
func patient(s *spinner) {
	s.begin()
	s.learnt, s.budget = true, time.Hour
}

// spinLong makes s spin past the moment that needs no slot. It reports whether s may
// spin on.
func spinLong(s *spinner) bool {
	for range spinClock {
		if !s.again() {
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
	all := make([]spinner, limit+1)
	for i := range all {
		patient(&all[i])
	}
	for i := range limit {
		require.True(t, spinLong(&all[i]))
	}
	last := &all[limit]
	require.False(t, spinLong(last), "one too many")
	budget := last.budget
	last.end()
	require.Equal(t, budget, last.budget, "it has learnt nothing about its peer")

	all[0].end()
	require.True(t, spinLong(last), "there is room again")
	for i := range all {
		all[i].end()
	}
	require.Zero(t, slotsTaken())
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
	require.Zero(t, slotsTaken())
}
