package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
)

// streamScenario measures messages in one direction.
func streamScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "stream",
		Title:    "messages one way",
		Subjects: suite.Drivers,
		About: `One goroutine notifies the worker as fast as it can, and the clock stops when the worker has answered, in ` +
			`a last call, that it has handled them all. Included: Method.Notify, the way there, the handler, which counts, ` +
			`and numbering the messages. MB/s counts one direction. Not included: answers, and batching by the ` +
			`caller, which notifications do not have.`,
		Plan: planStream,
	}
}

func planStream(o *suite.Options) (suite.Plan, error) {
	pool := new(suite.Pool)
	plan := suite.Plan{Close: pool.Close}
	for _, size := range suite.Given(o, o.Sizes, []int{64, 1 << 10, 16 << 10, 64 << 10}, []int{64, 64 << 10}) {
		var g suite.Group
		for _, way := range suite.Ways(o, []string{"adaptive", "park"}, justOne) {
			g.Cases = append(g.Cases, suite.Case{
				Result: report.Result{Scenario: "stream", Subject: way.Subject, Wait: way.Wait, Codec: "raw", Bytes: new(size), Callers: 1},
				Run: func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
					err = pool.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
						if _, err := notify(ctx, w, size, d/10); err != nil { // warm up
							return err
						}
						s, err = notify(ctx, w, size, d)
						return err
					})
					return s, err
				},
			})
		}
		plan.Groups = append(plan.Groups, g)
	}
	return plan, nil
}

const (
	clockEvery = 64               // notifications between two looks at the clock
	arrival    = 10 * time.Second // for the last ones to be handled
)

func notify(ctx context.Context, w *suite.Worker, size int, d time.Duration) (measure.Sample, error) {
	message := make([]byte, size)
	if _, err := tallyOf.Call(ctx, w, tallyRequest{Reset: true}); err != nil {
		return measure.Sample{}, w.Blame(err)
	}
	return w.Measure(ctx, func(s *measure.Sample) error {
		start := measure.Now()
		var seq uint64
		for {
			stamp(message, seq)
			if err := sink.Notify(ctx, w, message); err != nil {
				return err
			}
			if seq++; seq%clockEvery == 0 && measure.Now()-start >= d {
				break
			}
		}
		// Handlers may run beside each other, so the call may overtake some.
		want := expect(size, seq)
		var got tally
		for got.Messages < seq {
			var err error
			if got, err = tallyOf.Call(ctx, w, tallyRequest{}); err != nil {
				return err
			}
			if measure.Now()-start > d+arrival {
				err = errors.New("not all have arrived")
			}
			if err != nil {
				return fmt.Errorf("%w: %w: sent %v, got %v", suite.ErrGarbled, err, want, got)
			}
		}
		s.Busy = measure.Now() - start
		if got != want {
			return fmt.Errorf("%w: sent %v, got %v", suite.ErrGarbled, want, got)
		}
		s.Ops, s.Bytes = int64(seq), int64(got.Bytes)
		return nil
	})
}
