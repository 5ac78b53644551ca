package suite

import (
	"context"
	"errors"
	"sync"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// Crew is any number of workers that are the other side of a benchmark together. It is a [Meter],
// whose usage is the sum of theirs.
type Crew []*Worker

// Close ends all of them.
func (c Crew) Close() error {
	return c.Each(func(_ int, w *Worker) error { return w.Close() })
}

// Each calls f for each of them, all at the same time, and returns the errors.
func (c Crew) Each(f func(i int, w *Worker) error) error {
	failed := make([]error, len(c))
	var all sync.WaitGroup
	for i, w := range c {
		all.Go(func() { failed[i] = w.Blame(f(i, w)) })
	}
	all.Wait()
	return errors.Join(failed...)
}

// Usage asks all of them what they have used.
func (c Crew) Usage(ctx context.Context, r UsageRequest) (sum measure.Usage, err error) {
	each := make([]measure.Usage, len(c))
	err = c.Each(func(i int, w *Worker) (err error) {
		each[i], err = w.Usage(ctx, r)
		return err
	})
	for _, u := range each {
		sum.CPU, sum.Switches, sum.Mallocs = sum.CPU+u.CPU, sum.Switches+u.Switches, sum.Mallocs+u.Mallocs
		sum.Threads, sum.RSS, sum.PeakRSS = sum.Threads+u.Threads, sum.RSS+u.RSS, sum.PeakRSS+u.PeakRSS
	}
	return sum, err
}

// Measure is that of [Meter].
func (c Crew) Measure(ctx context.Context, f func(*measure.Sample) error) (measure.Sample, error) {
	return between(ctx, c, c.Usage, UsageRequest{GC: true}, f)
}

// MeasureMemory is that of [Meter].
func (c Crew) MeasureMemory(ctx context.Context, f func(*measure.Sample) error) (measure.Sample, error) {
	return between(ctx, c, c.Usage, UsageRequest{Reset: true}, f)
}

// Blame adds to err which of them has died, if one has.
func (c Crew) Blame(err error) error {
	if err == nil || errors.As(err, new(*blame)) {
		return err
	}
	for _, w := range c {
		select {
		case <-w.done:
			return w.Blame(err)
		default:
		}
	}
	return err
}

// While is that of [Worker]: the context ends when one of them does.
func (c Crew) While(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, w := range c {
		go func() {
			select {
			case <-w.done:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	return c.Blame(f(ctx))
}
