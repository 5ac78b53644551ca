package restart

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRestartDelays(t *testing.T) {
	r := NewCounter(Policy{MaxRestarts: -1})
	near := func(want, got time.Duration) {
		t.Helper()
		require.InDelta(t, want, got, float64(want)*0.25+1)
		require.LessOrEqual(t, got, 10*time.Second)
	}
	for want := 100 * time.Millisecond; want < 10*time.Second; want *= 2 {
		d, ok := r.Next(time.Second)
		require.True(t, ok)
		near(want, d)
	}
	for range 100 {
		d, ok := r.Next(0)
		require.True(t, ok, "there is no bound")
		near(10*time.Second, d)
	}
	d, _ := r.Next(11 * time.Second)
	near(100*time.Millisecond, d)

	d, _ = NewCounter(Policy{Delay: time.Hour, MaxDelay: time.Second}).Next(0)
	near(time.Second, d)
}

func TestRestartsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewCounter(Policy{})
		for range 10 {
			_, ok := r.Next(0)
			require.True(t, ok)
		}
		_, ok := r.Next(time.Hour)
		require.False(t, ok)
		time.Sleep(time.Minute + 1)
		for range 10 {
			_, ok := r.Next(0)
			require.True(t, ok, "a minute later they are forgotten")
		}
		_, ok = r.Next(0)
		require.False(t, ok)
	})
}
