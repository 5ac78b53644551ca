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
// blocks, however lately the sleeper has yielded.
func TestSleeperLetsOthersRun(t *testing.T) {
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
			ran.Store(true)
			close(done)
		}()
		s.Block(s.Prepare())
		if ranBefore.Load() {
			before++
		}
		<-done
	}
	require.Greater(t, before, sleeps/2) // the scheduler has a goroutine that yields run next now and then
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
