package worker

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercentFor(t *testing.T) {
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 4 << 20: 800, 8 << 20: 400, 16 << 20: 200, 32 << 20: 100, 1 << 40: 100} {
		require.Equal(t, want, percentFor(live), live)
	}
}

// A small heap is collected seldom, and as much as it would be anyway when it has grown. If
// somebody else sets GOGC it stays as it is.
func TestHeapFloor(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	keepHeapFloor()
	percent, live := readHeap()
	require.Equal(t, percentFor(live), percent)

	const many = 64
	var kept [][]byte
	for range many {
		kept = append(kept, make([]byte, 1<<20))
	}
	require.Eventually(t, func() bool { // until a collection has seen it, and the cleanup has run; small changes are left out
		debug.FreeOSMemory()
		percent, _ := readHeap()
		return percent < 115
	}, time.Minute, time.Millisecond)
	runtime.KeepAlive(kept)
	kept = nil
	require.Eventually(t, func() bool {
		debug.FreeOSMemory()
		percent, _ := readHeap()
		return percent > 200
	}, time.Minute, time.Millisecond)

	// A part of a program that wants no collection, and then sets GOGC back.
	old := debug.SetGCPercent(150)
	for range 3 {
		debug.FreeOSMemory()
		percent, _ := readHeap()
		require.Equal(t, 150, percent)
	}
	debug.SetGCPercent(old)
	for range many {
		kept = append(kept, make([]byte, 1<<20))
	}
	require.Eventually(t, func() bool {
		debug.FreeOSMemory()
		percent, _ := readHeap()
		return percent < 115
	}, time.Minute, time.Millisecond)
	runtime.KeepAlive(kept)
}

// Stacks count, too: GOGC multiplies them as it does the heap.
func TestHeapFloorOfManyStacks(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	stop := make(chan struct{})
	defer close(stop)
	for range 8192 {
		go func() {
			deep(16)
			<-stop
		}()
	}
	keepHeapFloor()
	require.Eventually(t, func() bool {
		debug.FreeOSMemory()
		goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
		metrics.Read(goal)
		return goal[0].Value.Uint64() < 200<<20
	}, time.Minute, time.Millisecond)
}

//go:noinline
func deep(n int) (sum byte) {
	var b [256]byte
	if n > 0 {
		b[n] = deep(n - 1)
	}
	return b[n] + b[255-n]
}

// What the user has set is left alone.
func TestHeapFloorOfTheUser(t *testing.T) {
	for name, set := range map[string]func(t *testing.T) func(){
		"GOGC":       func(t *testing.T) func() { t.Setenv("GOGC", "100"); return func() {} },
		"GOMEMLIMIT": func(t *testing.T) func() { t.Setenv("GOMEMLIMIT", "1GiB"); return func() {} },
		"SetMemoryLimit": func(*testing.T) func() {
			old := debug.SetMemoryLimit(1 << 40)
			return func() { debug.SetMemoryLimit(old) }
		},
		"SetGCPercent": func(*testing.T) func() { debug.SetGCPercent(90); return func() {} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOGC", "")
			t.Setenv("GOMEMLIMIT", "")
			defer debug.SetGCPercent(debug.SetGCPercent(100))
			defer set(t)()
			before, _ := readHeap()
			keepHeapFloor()
			after, _ := readHeap()
			require.Equal(t, before, after)
		})
	}
}
