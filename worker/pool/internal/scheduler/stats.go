package scheduler

import (
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

type counts struct{ ended, failed, retried, rejected, abandoned uint64 }

// area sums a number over time: calls that run, over time, are the time
// that was spent in calls.
type area struct {
	level      int
	sum, since time.Duration // the sum, up to then
}

func (a *area) change(n int, now time.Duration) {
	a.sum, a.since = a.until(now), now
	a.level += n
}

// until returns the sum, or the longest time if it is longer.
func (a *area) until(now time.Duration) time.Duration {
	const longest = time.Duration(math.MaxInt64)
	passed := now - a.since // a little less than 0 if two looked at the clock at once
	if a.level > 0 && passed > longest/time.Duration(a.level) {
		return longest
	}
	if passed *= time.Duration(a.level); passed > 0 && a.sum > longest-passed {
		return longest
	}
	return a.sum + passed
}

// longestWait is the longest time that histograms tell from longer ones.
const longestWait = time.Hour

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(int64(min(max(d, 1), longestWait))) // in range, so there is no error
}

// Stats is what a scheduler does now, and has done. Waits holds those calls only that
// have waited.
type Stats struct {
	Serving, Running, Queued                    int
	Ended, Failed, Retried, Rejected, Abandoned uint64
	Busy, Available                             time.Duration
	Waits, Runs                                 *hdrhistogram.Histogram
}

// Stats returns copies.
func (s *Scheduler) Stats(now time.Duration) Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.counts
	return Stats{
		Serving: len(s.members), Running: s.runs.level, Queued: s.queued,
		Ended: c.ended, Failed: c.failed, Retried: c.retried, Rejected: c.rejected, Abandoned: c.abandoned,
		Busy: s.runs.until(now), Available: s.places.until(now),
		Waits: s.waits.Clone(), Runs: s.runTimes.Clone(),
	}
}
