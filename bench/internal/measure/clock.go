package measure

import "time"

var epoch = time.Now()

// Now is a monotonic clock, in nanoseconds since the program's start. It reads
// less than time.Now does.
func Now() time.Duration { return time.Since(epoch) }

// ClockCost returns what one reading of the clock takes: the part of each
// latency that is the measuring itself.
func ClockCost() time.Duration {
	best := time.Hour
	for range 5 {
		const n = 2000
		start := Now()
		for range n - 1 {
			Now()
		}
		best = min(best, (Now()-start)/n)
	}
	return best
}
