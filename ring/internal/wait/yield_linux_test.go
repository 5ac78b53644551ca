package wait

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A goroutine that the sleeper's processor would run next runs before the sleeper's thread
// blocks, however lately the sleeper has yielded, also if it lets others run itself.
func TestSleeperLetsOthersRun(t *testing.T) {
	for yields := range 4 {
		letsOthersRun(t, yields)
	}
}

func letsOthersRun(t *testing.T, yields int) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var word uint32
	var ran, ranBefore atomic.Bool
	defer func(f func(*uint32, uint32, time.Duration) unix.Errno) { sysFutexWait = f }(sysFutexWait)
	sysFutexWait = func(*uint32, uint32, time.Duration) unix.Errno {
		ranBefore.Store(ran.Load())
		return 0
	}
	s := Sleeper{Bell: &word}
	const sleeps = 100
	before := 0
	for range sleeps {
		ran.Store(false)
		done := make(chan struct{})
		s.yielded = clock()
		go func() {
			for range yields {
				runtime.Gosched()
			}
			ran.Store(true)
			close(done)
		}()
		s.Block(s.Prepare())
		if ranBefore.Load() {
			before++
		}
		<-done
	}
	require.Greater(t, before, sleeps/2, "a goroutine that yields %d times", yields) // the scheduler has a goroutine that yields run next now and then
}

// A sleeper for whom nobody waits does not yield each time, and yet does now and then.
func TestSleeperYieldsWhenItHasTo(t *testing.T) {
	var word uint32
	defer func(f func(*uint32, uint32, time.Duration) unix.Errno) { sysFutexWait = f }(sysFutexWait)
	sysFutexWait = func(*uint32, uint32, time.Duration) unix.Errno { return 0 }
	s := Sleeper{Bell: &word}
	require.Eventually(t, func() bool { // others may run at any time
		s.yielded = clock()
		before := s.yielded
		s.Block(s.Prepare())
		return s.yielded == before
	}, time.Minute, time.Microsecond)
	s.yielded = clock() - maxRun
	before := s.yielded
	s.Block(s.Prepare())
	require.NotEqual(t, before, s.yielded)
}

// Others that go on and on do not keep a sleeper awake.
func TestSleeperSleepsThoughOthersRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var word uint32
	slept := 0
	defer func(f func(*uint32, uint32, time.Duration) unix.Errno) { sysFutexWait = f }(sysFutexWait)
	sysFutexWait = func(*uint32, uint32, time.Duration) unix.Errno {
		slept++
		return 0
	}
	s := Sleeper{Bell: &word}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			runtime.Gosched()
		}
	}()
	s.Block(s.Prepare())
	require.Equal(t, 1, slept)
	stop.Store(true)
	<-done
}
