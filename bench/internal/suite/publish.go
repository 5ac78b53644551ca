package suite

import (
	"context"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// Publishing is what publishes to those who sleep.
type Publishing struct {
	Size int
	// Parked reports whether all receivers have got everything.
	Parked func() bool
	// Publish publishes a record. It alone is timed.
	Publish func() error
}

const (
	// asleep is how long after Parked receivers are left alone, so that they sleep, and whoever has
	// woken them does.
	asleep = time.Millisecond
	// lookEvery is between two looks whether they have got everything.
	lookEvery = 20 * time.Microsecond
)

// MeasurePublish measures one Publish at a time for d, each when all receivers sleep, after a
// warm-up.
func MeasurePublish(ctx context.Context, w Meter, d time.Duration, p Publishing) (measure.Sample, error) {
	run := func(d time.Duration, s *measure.Sample) error {
		s.Latencies = measure.NewHistogram(1)
		for start := measure.Now(); s.Ops == 0 || measure.Now()-start < d; s.Ops++ {
			for !p.Parked() && ctx.Err() == nil {
				time.Sleep(lookEvery)
			}
			time.Sleep(asleep)
			if err := ctx.Err(); err != nil { // a publisher goes on without those that have died
				return err
			}
			before := measure.Now()
			err := p.Publish()
			took := measure.Now() - before
			if err != nil {
				return err
			}
			measure.Record(s.Latencies, took, 1)
			s.Busy += took
		}
		s.Bytes = int64(p.Size) * s.Ops
		return nil
	}
	if err := run(d/10, new(measure.Sample)); err != nil {
		return measure.Sample{}, w.Blame(err)
	}
	return w.Measure(ctx, func(s *measure.Sample) error { return run(d, s) })
}
