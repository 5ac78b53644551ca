package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/rings"
	"github.com/tandemipc/tandem/bench/internal/suite"
)

// ringScenario measures the bare ring, without driver, frames and calls.
func ringScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "ring",
		Title:    "the bare ring, there and back and one way",
		Subjects: []string{rings.Copy, rings.Claim, rings.Lease},
		About: `One goroutine in each process, rings of 1 MiB, every record numbered and the numbers checked by the other ` +
			`side. Rows with p50 are round trips: a record is sent, and sent back by the other process as soon as it ` +
			`is seen, 16 of them timed together, since one is hardly longer than a reading of the clock. Rows with a ` +
			`batch go one way: so many records are published by one store, and the clock stops when the other side has ` +
			`answered that all have arrived. ring copies the payload in, ring-claim does it into memory claimed in the ` +
			`ring, ring-lease has the reader hold each record until two more have come. Included: copying the payload in; ` +
			`reading its first and last eight bytes where it lies. Not included: reading or copying the rest out.`,
		Plan: planRings,
	}
}

func planRings(o *suite.Options) (suite.Plan, error) {
	all := new(rings.Pool)
	plan := suite.Plan{Close: all.Close}
	if err := rings.Supported(); err != nil {
		return suite.Plan{Skipped: []string{err.Error()}}, nil
	}
	for _, size := range suite.Given(o, o.Sizes, []int{8, 64, 512, 4 << 10, 64 << 10}, []int{8, 64}) {
		if size < 8 || size > rings.Bytes/2-8 {
			plan.Skipped = append(plan.Skipped, fmt.Sprintf("records of %s: they hold a number of 8 B, and at most half the ring", report.Size(size)))
			continue
		}
		waits := suite.Given(o, o.Waits, callWaits, justOne)
		if o.Wants(rings.Copy) {
			var g suite.Group
			for _, wait := range waits {
				g.Cases = append(g.Cases, suite.Case{
					Result: report.Result{Scenario: "ring", Subject: rings.Copy, Wait: wait, Bytes: new(size)},
					Run:    ringTrips(all, wait, size),
				})
			}
			plan.Groups = append(plan.Groups, g)
		}
		var g suite.Group
		for _, c := range []struct {
			subject string
			batch   int
		}{{rings.Copy, 1}, {rings.Copy, 8}, {rings.Copy, 32}, {rings.Copy, 128}, {rings.Claim, 1}, {rings.Claim, 32}, {rings.Lease, 1}} {
			if !o.Wants(c.subject) {
				continue
			}
			wait := waits[0]
			g.Cases = append(g.Cases, suite.Case{
				Result: report.Result{Scenario: "ring", Subject: c.subject, Wait: wait, Bytes: new(size), Batch: c.batch},
				Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
					return all.OneWay(ctx, wait, c.subject, size, c.batch, d)
				},
			})
		}
		plan.Groups = append(plan.Groups, g)
	}
	return plan, nil
}

// ringTrips returns what measures round trips.
func ringTrips(all *rings.Pool, wait string, size int) func(context.Context, time.Duration) (measure.Sample, error) {
	return func(ctx context.Context, d time.Duration) (measure.Sample, error) {
		return all.RoundTrips(ctx, wait, size, suite.TripsTogether, d)
	}
}
