package suite

import (
	"context"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// Pause is how long a caller from idle sleeps between calls.
const Pause = time.Millisecond

// FromIdle measures for d calls of op, each after a pause, which move so many bytes.
func FromIdle(ctx context.Context, w Meter, op Operation, bytes int, d time.Duration) (measure.Sample, error) {
	pacer, err := measure.NewPacer()
	if err != nil {
		return measure.Sample{}, err
	}
	defer pacer.Close()
	return w.Measure(ctx, func(s *measure.Sample) error {
		s.Latencies = measure.NewHistogram(1)
		start := measure.Now()
		for s.Ops == 0 || measure.Now()-start < d {
			op.Prepare(uint64(s.Ops))
			if err := pacer.Until(measure.Now() + Pause); err != nil {
				return err
			}
			began := measure.Now()
			err := op.Do(ctx)
			took := measure.Now() - began
			if err == nil {
				err = op.Check()
			}
			if err != nil {
				return err
			}
			measure.Record(s.Latencies, took, 1)
			s.Ops++
		}
		s.Busy = measure.Now() - start
		s.Bytes = int64(bytes) * s.Ops
		return nil
	})
}
