package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/socket"
)

// limits is the host's side.
type limits struct {
	worker *suite.Worker
	files  *limitFiles
	// payload is how many bytes copies have, 0 where there are none.
	payload int
}

func (l *limits) start(ctx context.Context) error {
	if l.worker != nil {
		return nil
	}
	ours, theirs, err := makeLimits(l.payload)
	if err != nil {
		return err
	}
	w, err := suite.Start(ctx, "limit", socket.Driver{}, theirs)
	for _, f := range theirs {
		f.Close()
	}
	if err != nil {
		ours.close()
		return err
	}
	l.worker, l.files = w, ours
	return nil
}

func (l *limits) close() {
	if l.worker == nil {
		return
	}
	if err := l.worker.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "end the worker of limit:", err)
	}
	l.files.close()
	l.worker = nil
}

func planLimits(o *suite.Options) (suite.Plan, error) {
	l := new(limits)
	plan := suite.Plan{Close: l.close}
	var g suite.Group
	for _, kind := range []string{oneLine, twoLines, futex, unixEcho, pipeEcho} {
		if !o.Wants(kind) {
			continue
		}
		r := report.Result{Scenario: "limit", Subject: kind}
		if kind == unixEcho || kind == pipeEcho {
			r.Bytes = new(limitMessage)
		}
		if kind == twoLines {
			g.Base = len(g.Cases)
		}
		g.Cases = append(g.Cases, suite.Case{Result: r, Run: l.runner(kind)})
	}
	plan.Groups = append(plan.Groups, g)
	if o.Wants(memcpy) {
		g := suite.Group{NoRatio: true}
		for _, size := range []int{64 << 10, 64 << 20} {
			g.Cases = append(g.Cases, suite.Case{
				Result: report.Result{Scenario: "limit", Subject: memcpy, Bytes: new(size)},
				Run:    func(ctx context.Context, d time.Duration) (measure.Sample, error) { return copyMemory(size, d) },
			})
		}
		plan.Groups = append(plan.Groups, g)
	}
	return plan, nil
}

// runner returns what measures one limit, with a worker that it starts if there is none.
func (l *limits) runner(kind string) func(context.Context, time.Duration) (measure.Sample, error) {
	return func(ctx context.Context, d time.Duration) (measure.Sample, error) {
		if err := l.start(ctx); err != nil {
			return measure.Sample{}, err
		}
		return l.run(ctx, kind, d)
	}
}

// bounces is how many round trips of a cache line are timed together.
const bounces = 64

// run measures one limit.
func (l *limits) run(ctx context.Context, kind string, d time.Duration) (measure.Sample, error) {
	return l.beside(ctx, kind, func(ctx context.Context, stop func() bool) (measure.Sample, error) {
		trip, together := l.files.trip(kind, stop)
		for end := measure.Now() + min(d/4, 20*time.Millisecond); measure.Now() < end; { // warm up
			if err := trip(); err != nil {
				return measure.Sample{}, err
			}
		}
		return l.worker.Measure(ctx, func(s *measure.Sample) error {
			s.Latencies = measure.NewHistogram(1)
			return suite.TimeTrips(s, d, together, trip)
		})
	})
}

// beside calls f while the worker runs its end; stop says that it has to return.
func (l *limits) beside(ctx context.Context, kind string, f func(ctx context.Context, stop func() bool) (measure.Sample, error)) (s measure.Sample, err error) {
	clear(l.files.memory[:limitMemory])
	if _, err := runEnd.Call(ctx, l.worker, endRequest{Kind: kind}); err != nil {
		return s, l.worker.Blame(err)
	}
	err = l.worker.While(ctx, func(ctx context.Context) error {
		if s, err = f(ctx, func() bool { return ctx.Err() != nil }); err != nil {
			return err
		}
		if kind == unixEcho || kind == pipeEcho {
			return nil
		}
		// The end of this run must be over before the memory is used again.
		b := word(l.files.memory, lineB)
		atomic.StoreUint64(word(l.files.memory, lineA), stopWord)
		futexWake(word32(l.files.memory, lineA))
		for atomic.LoadUint64(b) != stopWord {
			if err := ctx.Err(); err != nil {
				return err
			}
			time.Sleep(50 * time.Microsecond)
		}
		return nil
	})
	return s, err
}
