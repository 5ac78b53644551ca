package wait

import (
	"sync/atomic"
	"time"
)

// pollWord sleeps while *word == value, without the kernel's help: it looks at the
// word again and again, with growing pauses. It returns after a while even if nothing
// happened, so that an interrupt is noticed within about 10 ms.
func pollWord(word *uint32, value uint32) {
	poll(func() bool { return atomic.LoadUint32(word) != value })
}

// poll is pollWord for anything.
func poll(until func() bool) {
	pause := 20 * time.Microsecond
	for range 12 {
		if until() {
			return
		}
		nap(pause)
		pause = min(2*pause, time.Millisecond)
	}
}
