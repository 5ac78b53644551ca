package wait

import (
	"sync/atomic"
	"time"
)

// A dedicated sleeper blocks in FUTEX_WAIT and holds a thread. That is the fastest
// way to be woken, and too expensive for a thousand idle links. So only a few
// sleepers, those that fell asleep last, are dedicated. The others share threads:
// a multi-waiter sleeps for up to multiWaitSize of them, with futex_waitv (Linux
// 5.16). Where futex_waitv does not work, every sleeper holds its thread.
const (
	// maxDedicated is how many sleepers may be dedicated.
	maxDedicated = 16
	// dedicatedTime is for how long a sleeper is, once there are half of them.
	dedicatedTime = 20 * time.Millisecond
)

// dedicated counts the dedicated sleepers. It leaves out those that are dedicated only
// because futex_waitv failed.
var dedicated atomic.Int32

// sleepOn sleeps while the bell is value, until somebody wakes the word. It may return
// early for no reason.
func (s *Sleeper) sleepOn(value uint32) {
	s.letOthersRun(value)
	word := s.Bell
	if atomic.LoadUint32(word) != value {
		return // while others ran
	}
	n := dedicated.Add(1)
	timedOut := true
	if n <= maxDedicated {
		var timeout time.Duration
		if n > maxDedicated/2 {
			timeout = dedicatedTime
		}
		timedOut = futexWait(word, value, timeout)
	}
	dedicated.Add(-1)
	if timedOut && !multiWait(word, value) {
		futexWait(word, value, 0)
	}
}

// sleepFor is sleepOn, for d at most.
func (s *Sleeper) sleepFor(value uint32, d time.Duration) {
	s.letOthersRun(value)
	futexWait(s.Bell, value, d)
}
