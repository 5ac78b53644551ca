package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
)

// rateScenario measures calls that come at their own times, whether the earlier
// ones are done or not.
func rateScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "rate",
		Title:    "calls that come at a rate, and calls from idle",
		Subjects: suite.Drivers,
		About: `Open loop: calls of 64 bytes, raw, are due at fixed times, 1000 to 100000 a second, and each latency ` +
			`counts from the time at which the call was due, so that a stall counts for all calls that it holds up ` +
			`(corrected for coordinated omission). Included: how late the generator itself is woken, some tens of ` +
			`microseconds on an idle machine, the same for all subjects; it sleeps rather than spins, so as not to take ` +
			`a processor away. At most 64 calls are under way; others wait, and the wait counts. ` +
			`Rows with "1 caller" are the other case: one caller sleeps for a millisecond after each call, and the ` +
			`latency counts from when it begins to call. CPU is in percent of one core, for the host with its generator ` +
			`and for the worker.`,
		Plan: planRates,
	}
}

// atOnce is how many calls of an open loop can be under way.
const atOnce = 64

func planRates(o *suite.Options) (suite.Plan, error) {
	pool := new(suite.Pool)
	plan := suite.Plan{Close: pool.Close}
	d := max(o.Duration*3, 10*time.Millisecond) // at 1000/s there is little in less
	for _, size := range suite.Given(o, o.Sizes, []int{64}, []int{64}) {
		for _, rate := range []int{1_000, 10_000, 100_000} {
			plan.Groups = append(plan.Groups, rateGroup(o, pool, size, rate, 0, d, func(ctx context.Context, w *suite.Worker, d time.Duration) (measure.Sample, error) {
				return openLoop(ctx, w, size, rate, d)
			}))
		}
		plan.Groups = append(plan.Groups, rateGroup(o, pool, size, 1_000, 1, d, func(ctx context.Context, w *suite.Worker, d time.Duration) (measure.Sample, error) {
			return suite.FromIdle(ctx, w, rawLoad(w, "", size, 1).New(0), 2*size, d)
		}))
	}
	return plan, nil
}

func rateGroup(o *suite.Options, pool *suite.Pool, size, rate, callers int, d time.Duration, run func(context.Context, *suite.Worker, time.Duration) (measure.Sample, error)) suite.Group {
	var g suite.Group
	for _, way := range suite.Ways(o, callWaits, justOne) {
		g.Cases = append(g.Cases, suite.Case{
			Result:   report.Result{Scenario: "rate", Subject: way.Subject, Wait: way.Wait, Codec: "raw", Bytes: new(size), Rate: rate, Callers: callers},
			Duration: d,
			Run: func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
				err = pool.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
					if _, err := rawLoad(w, "", size, 1).Run(ctx, d/20); err != nil { // warm up
						return err
					}
					s, err = run(ctx, w, d)
					return err
				})
				return s, err
			},
		})
	}
	return g
}

// openLoop makes rate calls a second for d.
func openLoop(ctx context.Context, w *suite.Worker, size, rate int, d time.Duration) (measure.Sample, error) {
	total := max(int(d.Seconds()*float64(rate)), 1)
	interval := time.Second / time.Duration(rate)
	latencies := make([]*measure.Histogram, atOnce)
	for i := range latencies {
		latencies[i] = measure.NewHistogram(atOnce)
	}
	pacer, err := measure.NewPacer()
	if err != nil {
		return measure.Sample{}, err
	}
	defer pacer.Close()
	return w.Measure(ctx, func(s *measure.Sample) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		due := make(chan time.Duration, total)
		var all sync.WaitGroup
		for i := range latencies {
			all.Go(func() {
				op := rawLoad(w, "", size, 1).New(i)
				seq := uint64(i) << 40
				for at := range due {
					op.Prepare(seq)
					seq++
					err := op.Do(ctx)
					took := measure.Now() - at
					if err == nil {
						err = op.Check()
					}
					if err != nil {
						cancel(err)
						return
					}
					measure.Record(latencies[i], took, 1)
				}
			})
		}
		start := measure.Now()
		for sent := 0; sent < total && ctx.Err() == nil; {
			if err := pacer.Until(start + time.Duration(sent)*interval); err != nil {
				cancel(err)
				break
			}
			for now := measure.Now() - start; sent < total && time.Duration(sent)*interval <= now; sent++ {
				due <- start + time.Duration(sent)*interval
			}
		}
		close(due)
		all.Wait()
		if err := context.Cause(ctx); err != nil {
			return err
		}
		s.Busy = measure.Now() - start
		s.Latencies = measure.Merge(latencies)
		s.Ops = s.Latencies.TotalCount()
		s.Bytes = 2 * int64(size) * s.Ops
		if s.Ops != int64(total) {
			return fmt.Errorf("%w: %d calls were due and %d answered", suite.ErrGarbled, total, s.Ops)
		}
		return nil
	})
}
