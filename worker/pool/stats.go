package pool

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Stats says what a pool does now, and has done since it was made.
type Stats struct {
	// Size is how many workers take calls now, Starting how many are being
	// started or wait to be, and GivenUp how many will not be started again.
	Size, Starting, GivenUp int
	// Running is how many calls run on workers now, and Queued how many wait.
	Running, Queued int

	// Calls is how many calls have ended in a worker; each attempt counts as one.
	// Failed is how many of them returned an error, including handlers' errors. A stream
	// counts as a call, and has not failed if who has opened it has closed it.
	Calls, Failed uint64
	// Retried is how many calls were made once more on another worker.
	Retried uint64
	// Rejected is how many calls found the queue full, and Abandoned how many
	// ended while they waited in it.
	Rejected, Abandoned uint64
	// Restarts is how many workers were started for one that had ended, and
	// Recycled how many were replaced by WithRecycle.
	Restarts, Recycled uint64

	// Forgotten is how many buffers and files that have come from workers nobody has released or
	// closed before the garbage collector did.
	Forgotten uint64

	// Wait is how long calls waited for a worker; most do not wait at all. Run is how
	// long they ran, including the way to the worker and back.
	Wait, Run Latency

	// Busy is how long calls ran, and Available is how long workers were there for
	// them, times their concurrency; both are sums over all workers, up to the longest
	// Duration. See Utilisation.
	Busy, Available time.Duration
}

// Utilisation returns Busy divided by Available: how busy the workers have been since the
// pool was made, from 0 to 1. For a shorter time, take Stats twice, and divide the
// difference of Busy by that of Available.
func (s Stats) Utilisation() float64 {
	if s.Available <= 0 {
		return 0
	}
	return min(float64(s.Busy)/float64(s.Available), 1)
}

// Latency says how long something took, over all the times that it happened. Times are
// exact to 1 %; a time over an hour counts as an hour.
type Latency struct {
	Count                     int64
	Mean, P50, P99, P999, Max time.Duration
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	at := func(percentile float64) time.Duration { return time.Duration(h.ValueAtPercentile(percentile)) }
	return Latency{Count: h.TotalCount(), Mean: time.Duration(h.Mean()), P50: at(50), P99: at(99), P999: at(99.9), Max: time.Duration(h.Max())}
}

func (p *pool) stats() Stats {
	var st Stats
	p.mu.Lock()
	st.Restarts, st.Recycled = p.restarts, p.recycled
	for _, s := range p.slots {
		switch {
		case s.err != nil:
			st.GivenUp++
		case s.member == nil:
			st.Starting++
		}
	}
	p.mu.Unlock()

	s := p.scheduler.Stats(p.now())
	st.Size, st.Running, st.Queued = s.Serving, s.Running, s.Queued
	st.Calls, st.Failed, st.Retried, st.Rejected, st.Abandoned = s.Ended, s.Failed, s.Retried, s.Rejected, s.Abandoned
	st.Busy, st.Available = s.Busy, s.Available
	st.Forgotten = p.memory.Forgotten.Count()
	// Calls that did not wait are not recorded one by one.
	_ = s.Waits.RecordValues(0, int64(st.Calls)+int64(st.Running)-s.Waits.TotalCount())
	st.Wait, st.Run = latencyOf(s.Waits), latencyOf(s.Runs)
	return st
}
