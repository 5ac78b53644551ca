package main

import (
	"bytes"
	"context"
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
			`a last call, that it has handled them all. Included: Method.Notify, the way there, the handler, which counts ` +
			`and adds up, and numbering the messages. In place the handler is one of worker.HandleInPlace, and with a ` +
			`batch so many messages are sent by one ipc.Batch. Pipelined are calls instead: 32 are in flight from one ` +
			`goroutine, by Method.Go, one by one or as a batch, and then waited for and compared. MB/s counts one ` +
			`direction, of pipelined calls both.`,
		Plan: planStream,
	}
}

func planStream(o *suite.Options) (suite.Plan, error) {
	pool := new(suite.Pool)
	plan := suite.Plan{Close: pool.Close}
	for _, size := range suite.Given(o, o.Sizes, []int{64, 1 << 10, 16 << 10, 64 << 10}, []int{64, 1 << 10, 64 << 10}) {
		var g suite.Group
		for _, way := range suite.Ways(o, []string{"adaptive", "park"}, justOne) {
			for _, c := range []struct {
				mode  string
				batch int
				run   func(ctx context.Context, w *suite.Worker, size int, d time.Duration) (measure.Sample, error)
			}{
				{"", 0, suite.Notify(suite.Sink, 1)},
				{inPlace, 1, suite.Notify(suite.SinkInPlace, 1)}, {inPlace, notifyBatch, suite.Notify(suite.SinkInPlace, notifyBatch)},
				{pipelined, 1, keepInFlight(false)}, {pipelined, inFlight, keepInFlight(true)},
			} {
				if c.mode != "" && (size > 1<<10 || len(modes(way)) == 1) {
					continue
				}
				g.Cases = append(g.Cases, suite.Case{
					Result: report.Result{Scenario: "stream", Subject: way.Subject, Mode: c.mode, Wait: way.Wait, Codec: "raw", Bytes: new(size), Callers: 1, Batch: c.batch},
					Run: func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
						err = pool.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
							if _, err := c.run(ctx, w, size, d/10); err != nil { // warm up
								return err
							}
							s, err = c.run(ctx, w, size, d)
							return err
						})
						return s, err
					},
				})
			}
		}
		plan.Groups = append(plan.Groups, g)
	}
	return plan, nil
}

const (
	pipelined   = "pipelined"
	notifyBatch = 256 // notifications in a batch
	inFlight    = 32  // calls of one goroutine
)

// keepInFlight returns what keeps calls in flight for a time.
func keepInFlight(batch bool) func(context.Context, *suite.Worker, int, time.Duration) (measure.Sample, error) {
	return func(ctx context.Context, w *suite.Worker, size int, d time.Duration) (measure.Sample, error) {
		requests := make([][]byte, inFlight)
		for i := range requests {
			requests[i] = make([]byte, size)
		}
		var seq uint64
		var flying [inFlight]*ipc.Future[[]byte]
		start := func(c ipc.Caller) (err error) {
			for i := range flying {
				suite.Stamp(requests[i], seq)
				seq++
				if flying[i], err = echoInPlace.Go(ctx, c, requests[i]); err != nil {
					return err
				}
			}
			return nil
		}
		return w.Measure(ctx, func(s *measure.Sample) error {
			began := measure.Now()
			for seq == 0 || measure.Now()-began < d {
				var err error
				if batch {
					err = ipc.Batch(ctx, w, start)
				} else {
					err = start(w)
				}
				if err != nil {
					return err
				}
				for i, f := range flying {
					response, err := f.Wait(ctx)
					if err != nil {
						return err
					}
					if !bytes.Equal(response, requests[i]) {
						return fmt.Errorf("%w: sent %x, got %x", suite.ErrGarbled, requests[i], response)
					}
				}
			}
			s.Busy = measure.Now() - began
			s.Ops, s.Bytes = int64(seq), 2*int64(size)*int64(seq)
			return nil
		})
	}
}
