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
			`In place means Method.CallInto, which puts the response where the last one was, and a handler that answers from ` +
			`the request's own memory (worker.HandleInPlace). ` +
			`Not included: making the request and comparing the response, which is done after the clock has stopped. ` +
			`Raw passes bytes on; fixed a struct of 64 bytes, by CallInto; CBOR and JSON send an order with four items ` +
			`(about 400 and 650 bytes). ` +
			`bytes is the encoded size, MB/s counts both directions. Each latency includes one reading of the clock.`,
		Plan: planCalls,
	}
}

var (
	callSizes  = []int{0, 64, 512, 4 << 10, 64 << 10, 1 << 20}
	callWaits  = []string{adaptive, "spin", "park"}
	justOne    = []string{adaptive}
	codecNames = []string{"raw", "fixed", "cbor", "json"}
)

const adaptive = "adaptive"

// inPlace is the mode of calls with CallInto and HandleInPlace.
const inPlace = "in place"

// modes returns how a way is to call.
func modes(way suite.Way) []string {
	if way.Wait == adaptive || way.Wait == "" {
		return []string{"", inPlace}
	}
	return []string{""}
}

func planCalls(o *suite.Options) (suite.Plan, error) {
	pool := new(suite.Pool)
	plan := suite.Plan{Close: pool.Close}
	codecs := suite.Given(o, o.Codecs, codecNames, codecNames)
	if raw, fixed := slices.Contains(codecs, "raw"), slices.Contains(codecs, "fixed"); raw || fixed {
		for _, size := range suite.Given(o, o.Sizes, callSizes, callSizes) {
			quick := justOne
			if size == 64 {
				quick = callWaits
			}
			var g suite.Group
			for _, way := range suite.Ways(o, callWaits, quick) {
				id := report.Result{Scenario: "call", Subject: way.Subject, Wait: way.Wait, Bytes: new(size), Callers: 1}
				for _, mode := range modes(way) {
					if id.Mode, id.Codec = mode, "raw"; raw {
						g.Cases = append(g.Cases, suite.Case{Result: id, Run: rawCalls(pool, way, mode, size, 1)})
					}
				}
				if id.Mode, id.Codec = "", "fixed"; fixed && size == tickSize {
					g.Cases = append(g.Cases, suite.Case{Result: id, Run: loads(pool, way, func(w *suite.Worker) suite.Load {
						return suite.Load{Worker: w, Callers: 1, Bytes: 2 * tickSize, New: func(int) suite.Operation { return &tickCall{method: echoFixed, to: w} }}
					})})
				}
			}
			plan.Groups = append(plan.Groups, g)
		}
	}
	for _, name := range codecs {
		if name == "raw" || name == "fixed" {
			continue
		}
		codec, ok := ipc.FindCodec(name)
		if !ok {
			return plan, fmt.Errorf("no codec %q is known", name)
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

// loads returns a run of what load makes for a worker.
func loads(pool *suite.Pool, way suite.Way, load func(*suite.Worker) suite.Load) func(context.Context, time.Duration) (measure.Sample, error) {
	return func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
		err = pool.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
			s, err = load(w).Run(ctx, d)
			return err
		})
		return s, err
	}
}

// rawCalls returns a run of so many callers.
func rawCalls(pool *suite.Pool, way suite.Way, mode string, size, callers int) func(context.Context, time.Duration) (measure.Sample, error) {
	return loads(pool, way, func(w *suite.Worker) suite.Load { return rawLoad(w, mode, size, callers) })
}

func rawLoad(w *suite.Worker, mode string, size, callers int) suite.Load {
	return loadOf(w, mode, size, callers, func(int) ipc.Caller { return w })
}

// loadOf is rawLoad with what each caller calls.
func loadOf(m suite.Meter, mode string, size, callers int, to func(caller int) ipc.Caller) suite.Load {
	return suite.Load{Worker: m, Callers: callers, Bytes: 2 * size, New: func(caller int) suite.Operation {
		to := to(caller)
		if mode != inPlace {
			return suite.NewEcho(func(ctx context.Context, b []byte) ([]byte, error) { return echoRaw.Call(ctx, to, b) }, size)
		}
		var response []byte
		return suite.NewEcho(func(ctx context.Context, b []byte) ([]byte, error) {
			err := echoInPlace.CallInto(ctx, to, b, &response)
			return response, err
		}, size)
	}}
}

// trips returns what makes one round trip after the other.
func trips(ctx context.Context, op suite.Operation) func() error {
	var seq uint64
	return func() error {
		op.Prepare(seq)
		seq++
		if err := op.Do(ctx); err != nil {
			return err
		}
		return op.Check()
	}
}

// tickCall sends a tick by a method and gets it back.
type tickCall struct {
	method            *ipc.Method[tick, tick]
	to                ipc.Caller
	request, response tick
}

func (c *tickCall) Prepare(seq uint64) { c.request.number(seq) }

func (c *tickCall) Do(ctx context.Context) error {
	return c.method.CallInto(ctx, c.to, c.request, &c.response)
}

func (c *tickCall) Check() error {
	if c.request != c.response {
		return fmt.Errorf("%w: sent %+v, got %+v", suite.ErrGarbled, c.request, c.response)
	}
	return nil
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
