package main

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
)

// callScenario measures the round trip of one caller that calls without a pause.
func callScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "call",
		Title:    "round trip of one caller",
		Subjects: suite.Drivers,
		About: `One goroutine calls a method that returns its request, one call after the other. ` +
			`Included: Method.Call with its encoding and decoding, the way there and back, the handler. ` +
			`Not included: making the request and comparing the response, which is done after the clock has stopped. ` +
			`Raw passes bytes on; CBOR and JSON send an order with four items (about 400 and 650 bytes). ` +
			`bytes is the encoded size, MB/s counts both directions. Each latency includes one reading of the clock.`,
		Plan: planCalls,
	}
}

var (
	callSizes  = []int{0, 64, 512, 4 << 10, 64 << 10, 1 << 20}
	callWaits  = []string{"adaptive", "spin", "park"}
	justOne    = []string{"adaptive"}
	codecNames = []string{"raw", "cbor", "json"}
)

func planCalls(o *suite.Options) (suite.Plan, error) {
	pool := new(suite.Pool)
	plan := suite.Plan{Close: pool.Close}
	codecs := suite.Given(o, o.Codecs, codecNames, codecNames)
	if slices.Contains(codecs, "raw") {
		for _, size := range suite.Given(o, o.Sizes, callSizes, callSizes) {
			quick := justOne
			if size == 64 {
				quick = callWaits
			}
			var g suite.Group
			for _, way := range suite.Ways(o, callWaits, quick) {
				g.Cases = append(g.Cases, suite.Case{
					Result: report.Result{Scenario: "call", Subject: way.Subject, Wait: way.Wait, Codec: "raw", Bytes: new(size), Callers: 1},
					Run:    rawCalls(pool, way, size, 1),
				})
			}
			plan.Groups = append(plan.Groups, g)
		}
	}
	for _, name := range codecs {
		codec, ok := ipc.FindCodec(name)
		if !ok {
			return plan, fmt.Errorf("no codec %q is known", name)
		}
		if codec == ipc.Raw {
			continue
		}
		encoded, err := codec.Append(nil, newOrder())
		if err != nil {
			return plan, err
		}
		var g suite.Group
		for _, way := range suite.Ways(o, callWaits, justOne) {
			g.Cases = append(g.Cases, suite.Case{
				Result: report.Result{Scenario: "call", Subject: way.Subject, Wait: way.Wait, Codec: name, Bytes: new(len(encoded)), Callers: 1},
				Run: func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
					err = pool.With(ctx, way, codec, func(w *suite.Worker) error {
						s, err = suite.Load{Worker: w, Callers: 1, Bytes: 2 * len(encoded), New: func(int) suite.Operation {
							return &orderCall{to: w, request: newOrder()}
						}}.Run(ctx, d)
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

// rawCalls returns a run of so many callers.
func rawCalls(pool *suite.Pool, way suite.Way, size, callers int) func(context.Context, time.Duration) (measure.Sample, error) {
	return func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
		err = pool.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
			s, err = rawLoad(w, size, callers).Run(ctx, d)
			return err
		})
		return s, err
	}
}

func rawLoad(w *suite.Worker, size, callers int) suite.Load {
	return suite.Load{Worker: w, Callers: callers, Bytes: 2 * size, New: func(int) suite.Operation {
		return suite.NewEcho(func(ctx context.Context, b []byte) ([]byte, error) { return echoRaw.Call(ctx, w, b) }, size)
	}}
}

// orderCall sends an order and gets it back.
type orderCall struct {
	to                ipc.Caller
	request, response order
}

func (c *orderCall) Prepare(seq uint64) { c.request.ID = seq }

func (c *orderCall) Do(ctx context.Context) (err error) {
	c.response, err = echoOrder.Call(ctx, c.to, c.request)
	return err
}

// compareAll is how often an order is compared in full.
const compareAll = 64

func (c *orderCall) Check() error {
	same := c.request.ID == c.response.ID && c.request.Total == c.response.Total && len(c.request.Items) == len(c.response.Items)
	if c.request.ID%compareAll == 0 {
		same = reflect.DeepEqual(c.request, c.response)
	}
	if !same {
		return fmt.Errorf("%w: sent %+v, got %+v", suite.ErrGarbled, c.request, c.response)
	}
	return nil
}
