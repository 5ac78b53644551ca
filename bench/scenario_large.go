package main

import (
	"slices"

	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
)

// largeScenario measures payloads of megabytes.
func largeScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "large",
		Title:    "payloads of 1 to 64 MiB",
		Subjects: append(slices.Clone(suite.Drivers), memcpy),
		About: `One caller sends that much, raw, and gets it back. Included: splitting and joining, all copies, the ` +
			`memory of the response, which is new for every call, but in place: there it is used again, and the handler ` +
			`answers with its request. MB/s counts both directions. memory is the peak of ` +
			`resident memory of host and worker together while it ran, the programs themselves (some 15 MiB each) included. ` +
			`memcpy is what four copies cost at least: two processes copy the payload in and out of memory that both ` +
			`have, there and back, one after the other and each time to the same place, up to 16 MiB. ` +
			`Not included: rings larger than the default of 1 MiB, which could take a payload in one piece.`,
		Plan: planLarge,
	}
}

const (
	thereAndBack = "there and back" // the mode of copies by two processes
	mostCopied   = 16 << 20
)

func planLarge(o *suite.Options) (suite.Plan, error) {
	pool := new(suite.Pool)
	ends := []func(){pool.Close}
	plan := suite.Plan{Close: func() {
		for _, end := range ends {
			end()
		}
	}}
	sizes := []int{1 << 20, 16 << 20, 64 << 20}
	for _, size := range suite.Given(o, o.Sizes, sizes, sizes) {
		var g suite.Group
		for _, way := range suite.Ways(o, []string{"adaptive", "park"}, justOne) {
			for _, mode := range modes(way) {
				g.Cases = append(g.Cases, suite.Case{
					Result: report.Result{Scenario: "large", Subject: way.Subject, Mode: mode, Wait: way.Wait, Codec: "raw", Bytes: new(size), Callers: 1},
					Run: loads(pool, way, func(w *suite.Worker) suite.Load {
						load := rawLoad(w, mode, size, 1)
						load.Memory = true
						return load
					}),
				})
			}
		}
		if o.Wants(memcpy) && size <= mostCopied {
			cases, end := copyCases(size)
			g.Cases, ends = append(g.Cases, cases...), append(ends, end)
		}
		plan.Groups = append(plan.Groups, g)
	}
	return plan, nil
}
