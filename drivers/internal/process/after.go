package process

import (
	"sync/atomic"
	"time"
)

// maxNap is how long a goroutine in a bubble sleeps before it looks whether it is to end.
const maxNap = 10 * time.Millisecond

// After returns a channel that gets the time after d by the real clock, also in a bubble,
// where the clock of package time stands still while somebody waits in the kernel. stop,
// which has to be called, frees what it holds.
func After(d time.Duration) (c <-chan time.Time, stop func()) {
	if bubble() == "" {
		t := time.NewTimer(d)
		return t.C, func() { t.Stop() }
	}
	over := make(chan time.Time, 1)
	var stopped atomic.Bool
	go func() {
		for left := d; left > 0 && !stopped.Load(); left -= maxNap {
			nap(min(left, maxNap))
		}
		over <- time.Now()
	}()
	return over, func() { stopped.Store(true) }
}
