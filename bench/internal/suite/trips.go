package suite

import (
	"context"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// TripsTogether is how many round trips are timed together that are hardly longer than a
// reading of the clock.
const TripsTogether = 16

// TimeTrips makes round trips for d, so many between two looks at the clock, and
// records them.
func TimeTrips(s *measure.Sample, d time.Duration, together int, trip func() error) error {
	start := measure.Now()
	for now := start; s.Ops == 0 || now-start < d; {
		before := now
		for range together {
			if err := trip(); err != nil {
				return err
			}
		}
		now = measure.Now()
		measure.Record(s.Latencies, (now-before)/time.Duration(together), int64(together))
		s.Ops += int64(together)
	}
	s.Busy = measure.Now() - start
	return nil
}

// MeasureTrips measures round trips of size bytes that trip makes, after a warm-up,
// so many between two looks at the clock.
func MeasureTrips(ctx context.Context, w Meter, d time.Duration, size, together int, trip func() error) (measure.Sample, error) {
	run := func(d time.Duration, s *measure.Sample) error {
		s.Latencies = measure.NewHistogram(1)
		err := TimeTrips(s, d, together, trip)
		s.Bytes = 2 * int64(size) * s.Ops
		return err
	}
	if err := run(min(d/4, 20*time.Millisecond), new(measure.Sample)); err != nil {
		return measure.Sample{}, w.Blame(err)
	}
	return w.Measure(ctx, func(s *measure.Sample) error { return run(d, s) })
}
