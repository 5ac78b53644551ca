package worker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRestartDelays(t *testing.T) {
	r := Restart{MaxRestarts: -1}.begin()
	near := func(want, got time.Duration) {
		t.Helper()
		require.InDelta(t, want, got, float64(want)*restartJitter+1)
		require.LessOrEqual(t, got, 10*time.Second)
	}
	for want := 100 * time.Millisecond; want < 10*time.Second; want *= 2 {
		d, ok := r.next(time.Second)
		require.True(t, ok)
		near(want, d)
	}
	for range 100 {
		d, ok := r.next(0)
		require.True(t, ok, "there is no bound")
		near(10*time.Second, d)
	}
	d, _ := r.next(11 * time.Second)
	near(100*time.Millisecond, d)

	d, _ = Restart{Delay: time.Hour, MaxDelay: time.Second}.begin().next(0)
	near(time.Second, d)
}

func TestRestartsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Restart{}.begin()
		for range 10 {
			_, ok := r.next(0)
			require.True(t, ok)
		}
		_, ok := r.next(time.Hour)
		require.False(t, ok)
		time.Sleep(time.Minute + 1)
		for range 10 {
			_, ok := r.next(0)
			require.True(t, ok, "a minute later they are forgotten")
		}
		_, ok = r.next(0)
		require.False(t, ok)
	})
}

func TestRestartOutOfRange(t *testing.T) {
	for _, r := range []Restart{{Delay: -1}, {MaxDelay: -1}, {Interval: -1}} {
		require.Panics(t, func() { WithRestart(r) })
	}
}
