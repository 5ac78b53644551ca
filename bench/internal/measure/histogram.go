package measure

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Histogram counts latencies in nanoseconds. It belongs to one goroutine.
type Histogram = hdrhistogram.Histogram

// longest is the longest latency that is told from longer ones.
const longest = time.Minute

// manyCallers is from how many goroutines on histograms are coarser: a fine one
// takes 200 KiB.
const manyCallers = 16

// NewHistogram returns a histogram for one of so many goroutines: exact to
// 0.1 %, or to 1 % when there are many of them.
func NewHistogram(goroutines int) *Histogram {
	digits := 3
	if goroutines > manyCallers {
		digits = 2
	}
	return hdrhistogram.New(1, int64(longest), digits)
}

// Record counts n latencies of d.
func Record(h *Histogram, d time.Duration, n int64) {
	// In range, so there is no error.
	_ = h.RecordValues(min(max(int64(d), 1), int64(longest)), n)
}

// Merge returns one histogram of all those.
func Merge(hs []*Histogram) *Histogram {
	all := NewHistogram(1)
	for _, h := range hs {
		if h != nil {
			all.Merge(h)
		}
	}
	return all
}

// Worst is how many times the 99th percentile of the worst caller is that of the median one: 1 if
// all are served alike, 0 of a single one.
func Worst(hs []*Histogram) float64 {
	if len(hs) < 2 {
		return 0
	}
	each := make([]float64, len(hs))
	for i, h := range hs {
		each[i] = float64(h.ValueAtPercentile(99))
	}
	s := SpreadOf(each)
	return s.High / s.Median
}
