package wait

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// spinWaits makes n waits, the length of which depends on for how long s spins, and counts
// those in which it spins. They take no time.
func spinWaits(s *Spinner, n int, took func(limit time.Duration) time.Duration) (spins int) {
	for range n {
		s.Begin()
		s.Again()
		if s.limit > 0 {
			spins++
		}
		t := took(s.limit)
		s.gaveUp = t >= s.limit
		s.learn(t)
	}
	return spins
}

// always is a peer that answers after so long, whatever this side does.
func always(d time.Duration) func(time.Duration) time.Duration {
	return func(time.Duration) time.Duration { return d }
}

// spoiled is a peer that answers soon only if this side does not spin: it needs the
// processor.
func spoiled(limit time.Duration) time.Duration { return 10*time.Microsecond + limit }

func TestSpinnerSettles(t *testing.T) {
	if oneProcessor {
		t.Skip("nobody spins on one processor")
	}
	for name, c := range map[string]struct {
		peer     func(time.Duration) time.Duration
		min, max int // of 10,000 waits, those that spin
	}{
		"quick":                      {always(5 * time.Microsecond), 9990, 10000},
		"as slow as pays":            {always(spinMax - spinMin), 9990, 10000},
		"slower, but within a probe": {always(2 * spinMax), 100, 10000/probeEvery + 10},
		"rare":                       {always(time.Millisecond), 5, 10000/probeEvery/hopeless + 10},
		"needs the processor":        {spoiled, 20, 10000/trialRarely*3 + 30},
	} {
		var s Spinner
		spins := spinWaits(&s, 10000, c.peer)
		require.GreaterOrEqual(t, spins, c.min, name)
		require.LessOrEqual(t, spins, c.max, name)
		// Whatever it has learnt, it learns that a peer has become quick.
		quick := always(5 * time.Microsecond)
		spinWaits(&s, trialRarely+1, quick)
		require.Equal(t, 100, spinWaits(&s, 100, quick), name)
	}
}

// Two sides that wake each other late find out that both may spin.
func TestSpinnersFindEachOther(t *testing.T) {
	if oneProcessor {
		t.Skip("nobody spins on one processor")
	}
	const soon, late = 5 * time.Microsecond, 60 * time.Microsecond
	var a, b Spinner
	spins := 0
	for range 10 * probeEvery {
		for _, side := range [][2]*Spinner{{&a, &b}, {&b, &a}} {
			spins = spinWaits(side[0], 1, func(limit time.Duration) time.Duration {
				if side[1].budget > 0 {
					return soon // it sees at once what this side has sent
				}
				return late
			})
		}
	}
	require.Positive(t, spins)
	require.Positive(t, a.budget)
	require.Positive(t, b.budget)
	require.Equal(t, 100, spinWaits(&a, 100, always(soon)))
}
