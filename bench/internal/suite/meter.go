package suite

import (
	"context"
	"fmt"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// A Meter is the other process of a benchmark, as far as a [Load] needs it: a [Worker], or
// a [Process] that another library has started.
type Meter interface {
	// Measure runs f, which fills in what it did, between two readings of what both
	// processes have used.
	Measure(ctx context.Context, f func(*measure.Sample) error) (measure.Sample, error)
	// MeasureMemory is Measure with the peak of memory and the threads of both.
	MeasureMemory(ctx context.Context, f func(*measure.Sample) error) (measure.Sample, error)
	// Blame adds to err which process it was.
	Blame(err error) error
}

// A Process is a [Meter] of a process that is no worker of this module.
type Process struct {
	// Name is that of the subject.
	Name string
	// Ask returns what the process has used.
	Ask func(ctx context.Context, r UsageRequest) (measure.Usage, error)
}

// Measure is that of [Meter].
func (p Process) Measure(ctx context.Context, f func(*measure.Sample) error) (measure.Sample, error) {
	return between(ctx, p, p.Ask, UsageRequest{GC: true}, f)
}

// MeasureMemory is that of [Meter].
func (p Process) MeasureMemory(ctx context.Context, f func(*measure.Sample) error) (measure.Sample, error) {
	return between(ctx, p, p.Ask, UsageRequest{Reset: true}, f)
}

// Blame is that of [Meter].
func (p Process) Blame(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the process of %s: %w", p.Name, err)
}

// between runs f between two readings of what this process and that of m, which is asked,
// have used.
func between(ctx context.Context, m Meter, ask func(context.Context, UsageRequest) (measure.Usage, error), r UsageRequest, f func(*measure.Sample) error) (measure.Sample, error) {
	var s measure.Sample
	before, err := ask(ctx, r)
	if err != nil {
		return s, m.Blame(err)
	}
	host, start := Usage(r), measure.Now()
	err = f(&s)
	s.Elapsed = measure.Now() - start
	s.Host = measure.Self().Since(host)
	if err != nil {
		return s, m.Blame(err)
	}
	after, err := ask(ctx, UsageRequest{})
	s.Worker = after.Since(before)
	if !r.Reset {
		s.Host.RSS, s.Worker.RSS, s.Host.Threads, s.Worker.Threads = 0, 0, 0, 0
	} else {
		s.Host.RSS, s.Worker.RSS = s.Host.PeakRSS, s.Worker.PeakRSS
	}
	return s, m.Blame(err)
}
