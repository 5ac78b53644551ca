package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
)

const (
	// besideBusy is the mode of calls beside a handler that computes all the time.
	besideBusy = "beside a busy handler"
	// alone is the subject of what computes in the host while nobody calls.
	alone = "alone"
	// fewCalls is how many calls are made a second beside what computes.
	fewCalls = 8
)

// interferenceScenario measures what calls suffer from other work, and the reverse.
func interferenceScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "interference",
		Title:    "calls and other work in the way of each other",
		Subjects: append([]string{alone}, suite.Drivers...),
		About: `Beside a busy handler: one caller, raw, 64 bytes, in place, while another handler on the same link computes ` +
			`all the time, from before the first call that is counted. Included: the stalls until that ` +
			`handler is known for a slow one, and sharing a processor with it. ` +
			`Rows with a rate are not of calls: one goroutine of the host computes, ops are pieces of ` +
			`its work, while another one makes 8 raw calls of 64 bytes a second; alone is the same without calls.`,
		Plan: planInterference,
	}
}

func planInterference(o *suite.Options) (suite.Plan, error) {
	pool := new(suite.Pool)
	plan := suite.Plan{Close: pool.Close}
	d := 5 * o.Duration // calls are few, and stalls rare
	if o.Quick {
		d = 3 * o.Duration
	}
	var stalls, work suite.Group
	if o.Wants(alone) {
		work.Cases = append(work.Cases, suite.Case{
			Result:   report.Result{Scenario: "interference", Subject: alone},
			Duration: d,
			Run:      func(ctx context.Context, d time.Duration) (measure.Sample, error) { return computing(ctx, nil, d) },
		})
	}
	for _, way := range suite.Ways(o, justOne, justOne) {
		stalls.Cases = append(stalls.Cases, suite.Case{
			Result:   report.Result{Scenario: "interference", Subject: way.Subject, Mode: besideBusy, Wait: way.Wait, Codec: "raw", Bytes: new(64), Callers: 1},
			Duration: d,
			Run: func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
				err = pool.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
					s, err = callsBesideBusy(ctx, w, d)
					return err
				})
				return s, err
			},
		})
		work.Cases = append(work.Cases, suite.Case{
			Result:   report.Result{Scenario: "interference", Subject: way.Subject, Wait: way.Wait, Codec: "raw", Bytes: new(64), Rate: fewCalls},
			Duration: d,
			Run: func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
				err = pool.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
					s, err = computing(ctx, w, d)
					return err
				})
				return s, err
			},
		})
	}
	plan.Groups = []suite.Group{stalls, work}
	return plan, nil
}

// callsBesideBusy lets one handler compute while another one is called for d.
func callsBesideBusy(ctx context.Context, w *suite.Worker, d time.Duration) (measure.Sample, error) {
	busyCtx, end := context.WithCancel(ctx)
	defer end()
	ended := make(chan error, 1)
	load := rawLoad(w, inPlace, 64, 1)
	load.Begin = func() {
		go func() {
			_, err := busy.Call(busyCtx, w, struct{}{})
			ended <- err
		}()
	}
	s, err := load.Run(ctx, d)
	if err != nil {
		return s, err
	}
	select {
	case err := <-ended:
		return s, w.Blame(fmt.Errorf("the busy handler has ended before the calls: %w", err))
	default:
	}
	end()
	<-ended // with the error that its context has ended
	return s, nil
}

// computing computes for d, while w, if there is one, is called now and then.
func computing(ctx context.Context, w *suite.Worker, d time.Duration) (measure.Sample, error) {
	s := measure.Sample{}
	ctx, end := context.WithTimeout(ctx, d)
	defer end()
	var calls errgroup.Group
	before, start := suite.Usage(suite.UsageRequest{GC: true}), measure.Now()
	if w != nil {
		calls.Go(func() error { return callNowAndThen(ctx, w) })
	}
	for s.Ops == 0 || ctx.Err() == nil {
		compute()
		s.Ops++
	}
	s.Busy = measure.Now() - start
	s.Elapsed, s.Host = s.Busy, measure.Self().Since(before)
	s.Host.RSS, s.Host.Threads = 0, 0
	if w == nil {
		return s, nil
	}
	return s, w.Blame(calls.Wait())
}

// callNowAndThen makes some calls each second until ctx ends.
func callNowAndThen(ctx context.Context, w *suite.Worker) error {
	pacer, err := measure.NewPacer()
	if err != nil {
		return err
	}
	defer pacer.Close()
	op := rawLoad(w, "", 64, 1).New(0)
	start := measure.Now()
	for n := uint64(0); ; n++ {
		if err := pacer.Until(start + time.Duration(n)*time.Second/fewCalls); err != nil || ctx.Err() != nil {
			return err
		}
		op.Prepare(n)
		// A call is not cut short, so that its answer can be told from a failure.
		if err := op.Do(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		if err := op.Check(); err != nil {
			return err
		}
	}
}

// computed is what compute has come to.
var computed atomic.Uint64

// compute does a piece of work, of some microseconds.
func compute() {
	x := uint64(88172645463325252)
	for range 10_000 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	computed.Store(x)
}
