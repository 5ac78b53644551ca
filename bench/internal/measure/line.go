package measure

import (
	"runtime"
	"slices"
	"sync/atomic"
	"time"
)

// State says how near two processors are to each other. On a virtual machine a cache line
// takes several times as long at some times as at others, for seconds each, presumably by
// where the hypervisor puts the processors; every figure moves with it, but not every one
// alike. So only figures of equal states can be compared.
type State string

// The states.
const (
	Near    State = "near"  // a cache line takes less than farLine to another processor and back
	Far     State = "far"   // it takes more
	Mixed   State = "mixed" // the state changed meanwhile
	Unknown State = ""      // there is one processor
)

// Order is the place of a state among others.
func (s State) Order() int { return slices.Index([]State{Unknown, Near, Far, Mixed}, s) }

// farLine is from where on processors are far from each other. Processors of one chip take
// 20 to 130 ns, others 250 ns or more.
const farLine = 200 * time.Nanosecond

// StateOf returns the state between two readings of [LineTime].
func StateOf(before, after time.Duration) State {
	switch {
	case before == 0 || after == 0:
		return Unknown
	case (before < farLine) != (after < farLine):
		return Mixed
	case before < farLine:
		return Near
	}
	return Far
}

const (
	lineTrips  = 64 // between two readings of the clock
	lineGroups = 15
)

// LineTime measures what a cache line takes to another processor and back, in less than a
// millisecond where nobody else needs the processors. It returns 0 if there is only one.
func LineTime() time.Duration {
	if runtime.GOMAXPROCS(0) < 2 || runtime.NumCPU() < 2 {
		return 0
	}
	var line struct {
		_ [128]byte
		n atomic.Uint32
		_ [128]byte
	}
	const last = 2 * lineTrips * (lineGroups + 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for n := uint32(1); n < last; n += 2 {
			for line.n.Load() != n {
			}
			line.n.Store(n + 1)
		}
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	times := make([]time.Duration, 0, lineGroups+1)
	for n := uint32(0); n < last; {
		start := Now()
		for range lineTrips {
			line.n.Store(n + 1)
			for n += 2; line.n.Load() != n; {
			}
		}
		times = append(times, (Now()-start)/lineTrips)
	}
	<-ended
	times = times[1:] // the other side may not have run when the first began
	slices.Sort(times)
	return times[len(times)/2]
}
