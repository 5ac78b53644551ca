package arena

import (
	"math"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pending returns the timer, or nil.
func (a *Arena) pending() *time.Timer {
	a.timerMu.Lock()
	defer a.timerMu.Unlock()
	return a.timer
}

// running reports whether there is a timer.
func (a *Arena) running() bool { return a.pending() != nil }

// Memory is given back when it has been idle for as long as Options say, and not before; and
// when all is given back no timer runs.
func TestIdleMemoryIsGivenBack(t *testing.T) {
	eachMemory(t, func(t *testing.T) {
		for _, n := range []int{100, maxSmall, 3 * maxSmall} {
			synctest.Test(t, func(t *testing.T) {
				a := New(Options{Idle: 10 * time.Second})
				defer a.Close()
				dropped := 0
				a.OnDrop(func(*Region) { dropped++ })
				time.Sleep(time.Hour)
				require.False(t, a.running())

				kept, err := a.Alloc(n)
				require.NoError(t, err)
				require.True(t, a.running())
				b, err := a.Alloc(n)
				require.NoError(t, err)
				time.Sleep(time.Hour)
				require.False(t, a.running(), "there is nothing to give back")
				b.Free()
				kept.Free()
				require.True(t, a.running())
				for range 10 { // used again, it is not idle
					time.Sleep(9 * time.Second)
					b, err := a.Alloc(n)
					require.NoError(t, err)
					require.Same(t, kept, b)
					b.Free()
				}
				time.Sleep(9900 * time.Millisecond)
				require.NotZero(t, a.Stats().Reserved)
				time.Sleep(2200 * time.Millisecond)
				require.Zero(t, a.Stats().Reserved)
				require.False(t, a.running())
				if sharesMemory() {
					require.NotZero(t, dropped)
				}

				// And all over again.
				b, err = a.Alloc(n)
				require.NoError(t, err)
				b.Free()
				time.Sleep(12100 * time.Millisecond)
				require.Zero(t, a.Stats().Reserved)
				require.False(t, a.running())
			})
		}
	})
}

// An arena that is told to keep what it has, or for very long, does.
func TestNothingIsGivenBackUnasked(t *testing.T) {
	for _, idle := range []time.Duration{-1, math.MinInt64, math.MaxInt64} {
		synctest.Test(t, func(t *testing.T) {
			a := New(Options{Idle: idle})
			defer a.Close()
			b, err := a.Alloc(100)
			require.NoError(t, err)
			b.Free()
			time.Sleep(time.Hour)
			require.NotZero(t, a.Stats().Reserved)
			require.Equal(t, idle > 0, a.running())
			a.Trim()
			require.Zero(t, a.Stats().Reserved)
			require.False(t, a.running())
		})
	}
}

// Memory that is idle wakes nobody until it is time to give it back.
func TestIdleMemoryTakesOneTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Options{Idle: time.Hour})
		defer a.Close()
		for _, n := range []int{100, 2 * maxSmall} {
			b, err := a.Alloc(n)
			require.NoError(t, err)
			time.Sleep(time.Minute)
			b.Free()
			time.Sleep(3 * time.Second)
			require.Zero(t, a.clock.Load())
			timer := a.pending()
			time.Sleep(59 * time.Minute)
			require.True(t, timer == a.pending())
			require.NotZero(t, a.Stats().Reserved)
			time.Sleep(time.Minute)
			require.Zero(t, a.Stats().Reserved)
			require.False(t, a.running())
		}
	})
}

// After Close nothing runs, though blocks are freed.
func TestNothingRunsAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Options{})
		small, err := a.Alloc(100)
		require.NoError(t, err)
		large, err := a.Alloc(2 * maxSmall)
		require.NoError(t, err)
		require.True(t, a.running())
		require.NoError(t, a.Close())
		require.False(t, a.running())
		require.EqualValues(t, regionSize+2*maxSmall, a.Stats().Reserved)
		small.Free()
		require.EqualValues(t, 2*maxSmall, a.Stats().Reserved)
		large.Free()
		require.Zero(t, a.Stats().Reserved)
		require.False(t, a.running())
	})
}

// The age of the oldest block is right to a second, whenever it is asked for.
func TestAgeOfOldestBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Options{})
		defer a.Close()
		var blocks []*Block
		var at []time.Time
		for i := range 50 {
			time.Sleep(time.Duration(i) * 137 * time.Millisecond)
			b, err := a.Alloc(i % 3 * maxSmall)
			require.NoError(t, err)
			blocks, at = append(blocks, b), append(at, time.Now())
		}
		for i, b := range blocks {
			time.Sleep(time.Duration(i) * 91 * time.Millisecond)
			want, got := time.Since(at[i]), a.Stats().Oldest
			require.GreaterOrEqual(t, got, want)
			require.LessOrEqual(t, got, want+time.Second)
			b.Free()
		}
		require.Zero(t, a.Stats().Oldest)
	})
}

// Whatever the clock does at the moment when a block is freed, it runs afterwards, and the
// memory is given back.
func TestNoFreeIsMissedWhenTheClockStops(t *testing.T) {
	for _, n := range []int{1, maxSmall + 1} {
		a := New(Options{Idle: time.Hour})
		a.period = time.Hour // only the test's ticks
		for i := range 20000 {
			b, err := a.Alloc(n)
			require.NoError(t, err)
			a.tick() // the next one finds that nobody allocates
			var done sync.WaitGroup
			done.Go(a.tick)
			for range i % 64 {
				runtime.Gosched()
			}
			b.Free()
			done.Wait()
			if !a.running() {
				t.Fatal("there is memory to give back, and no timer for it")
			}
		}
		require.NoError(t, a.Close())
	}
	for i := range 40 {
		a := New(Options{Idle: 2 * time.Millisecond})
		b, err := a.Alloc(i % 2 * (maxSmall + 1))
		require.NoError(t, err)
		for i%4 < 2 && a.clock.Load() > 0 { // it stops while the block is held
			runtime.Gosched()
		}
		b.Free()
		for a.Stats().Reserved > 0 {
			runtime.Gosched()
		}
		require.NoError(t, a.Close())
	}
}
