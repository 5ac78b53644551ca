//go:build !linux

package ring

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Systems other than Linux have no sealed memory here, so rings exist only on
// the heap of one process. A sleeper polls with growing pauses: correct, not
// quick. It returns after a while even if nothing happened, so that an interrupt
// is noticed within about 10 ms.
func futexWait(word *uint32, value uint32, _ time.Duration) error {
	pause := 20 * time.Microsecond
	for range 12 {
		if atomic.LoadUint32(word) != value {
			return nil
		}
		time.Sleep(pause)
		pause = min(2*pause, time.Millisecond)
	}
	return nil
}

// futexWake has nothing to do: sleepers look by themselves.
func futexWake(*uint32) {}

func osYield() { runtime.Gosched() }
