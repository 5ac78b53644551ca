package ring

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"time"
)

// maxRun is for how long a sleeper does without yielding though nothing else could run. Go's
// monitor takes the processor from a goroutine that has run for 10 ms without a switch,
// sleeping included, and then looks every 20 microseconds what the process does.
const maxRun = 5 * time.Millisecond

// letOthersRun is called before the sleeper's thread blocks. Goroutines that this thread
// would have run next would wait until Go's monitor takes them away from it; they go first.
// Where there are none, to yield would only wake another thread, which would look in vain
// for something to do.
func (s *sleeper) letOthersRun() {
	now := clock()
	// To look at very many processors takes as long as to yield.
	if now-s.yielded < maxRun && usableSpinSlots(now) < 32 && noneRunnable() {
		return
	}
	s.yielded = now
	runtime.Gosched()
}

var runnableSamples = sync.Pool{New: func() any {
	return &[1]metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}}
}}

// noneRunnable reports whether no goroutine of the process waits for a processor. Of those
// that wait for the caller's it misses none.
func noneRunnable() bool {
	samples := runnableSamples.Get().(*[1]metrics.Sample)
	defer runnableSamples.Put(samples)
	metrics.Read(samples[:])
	n := samples[0].Value // of no kind where this version of Go does not tell
	return n.Kind() == metrics.KindUint64 && n.Uint64() == 0
}
