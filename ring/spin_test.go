package ring

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// spinLong lets s spin past the moment that is free. It reports whether it still may.
func spinLong(s *spinner) bool {
	for range spinAlone {
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
	limit := max(1, runtime.GOMAXPROCS(0)-1)
	all := make([]spinner, limit+1)
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
	require.Zero(t, spinners.Load())
}
