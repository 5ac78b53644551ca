package scheduler

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Ten thousand places for a fortnight are more time than a Duration holds: the sum then stays at
// its end.
func TestAreaDoesNotOverflow(t *testing.T) {
	var a area
	a.change(10_000, time.Second)
	require.Equal(t, 10_000*time.Second, a.until(2*time.Second))
	a.change(-9_999, 3*time.Second)
	require.Equal(t, 20_003*time.Second, a.until(6*time.Second))
	a.change(9_999, 6*time.Second)
	for _, now := range []time.Duration{14 * 24 * time.Hour, 1000 * 24 * time.Hour, math.MaxInt64} {
		require.Equal(t, time.Duration(math.MaxInt64), a.until(now))
	}
	a.change(1, 14*24*time.Hour)
	require.Equal(t, time.Duration(math.MaxInt64), a.until(15*24*time.Hour))
	a.change(-10_001, 15*24*time.Hour)
	require.Equal(t, time.Duration(math.MaxInt64), a.until(math.MaxInt64))

	var early area
	early.change(2, 10)
	early.change(1, 8) // who came before looked at the clock later
	require.Equal(t, time.Duration(-4+3*12), early.until(20))
}
