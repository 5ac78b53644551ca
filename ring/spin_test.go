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

// However a wait is left, nobody stays counted as spinning.
func TestSpinnersGo(t *testing.T) {
	if oneProcessor {
		t.Skip("nobody spins on one processor")
	}
	p, c := newPair(t, MinSize, 0)
	counted := func() {
		t.Helper()
		c.Disarm()
		c.spin.begin()
		for spinners.Load() == 0 {
			c.spin.budget, c.spin.learnt, c.spin.gaveUp = spinMax, true, false
			c.Spin()
		}
	}
	for name, leave := range map[string]func(){
		"arm":  c.Arm,
		"rest": c.Rest,
		"read": func() {
			require.NoError(t, p.Write(1, nil))
			_, ok, _ := c.Next()
			require.True(t, ok)
			c.Arm()
		},
		"sleep over": func() { c.Arm(); c.Disarm() },
	} {
		counted()
		leave()
		require.Zero(t, spinners.Load(), name)
	}
	for p.Write(1, make([]byte, 1000)) == nil {
	}
	failed := make(chan error)
	go func() { failed <- p.Send(t.Context(), 1, nil, make([]byte, 1000)) }()
	p.Interrupt(ErrFull)
	require.Equal(t, ErrFull, <-failed)
	require.Zero(t, spinners.Load(), "interrupted")
}
