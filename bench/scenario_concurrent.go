package main

import (
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
)

// concurrentScenario measures many goroutines that call over one link.
func concurrentScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "concurrent",
		Title:    "1 to 256 callers on one link",
		Subjects: suite.Drivers,
		About: `So many goroutines of the host call one worker over one link, each one call after the other, ` +
			`64 bytes there and back, raw. Included: what call includes, and waiting for each other and for a processor. ` +
			`Calls per second are of all callers together, by the wall clock, so that preparing and comparing ` +
			`the 64 bytes is included. In place is as in call. Not included: several links, which a pool of workers would have.`,
		Plan: planConcurrent,
	}
}

func planConcurrent(o *suite.Options) (suite.Plan, error) {
	pool := new(suite.Pool)
	plan := suite.Plan{Close: pool.Close}
	for _, size := range suite.Given(o, o.Sizes, []int{64}, []int{64}) {
		// One group, so that what more callers gain is measured interleaved, too.
		var g suite.Group
		for _, callers := range suite.Given(o, o.Callers, []int{1, 2, 8, 64, 256}, []int{1, 2, 8, 64, 256}) {
			base := len(g.Cases)
			for _, way := range suite.Ways(o, []string{"adaptive", "park"}, justOne) {
				for _, mode := range modes(way) {
					g.Cases = append(g.Cases, suite.Case{
						Result: report.Result{Scenario: "concurrent", Subject: way.Subject, Mode: mode, Wait: way.Wait, Codec: "raw", Bytes: new(size), Callers: callers},
						Run:    rawCalls(pool, way, mode, size, callers),
					})
					g.Bases = append(g.Bases, base)
				}
			}
		}
		plan.Groups = append(plan.Groups, g)
	}
	return plan, nil
}
