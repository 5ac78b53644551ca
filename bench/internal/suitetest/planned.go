// Package suitetest has what tests of benchmark programs share.
package suitetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
)

// Planned returns what a run of the program would have measured, without measuring: of each
// case that is planned, the samples that sample makes, for those states of the machine.
func Planned(t *testing.T, p *suite.Program, o *suite.Options, states []measure.State, sample func(report.Result, measure.State) measure.Sample) (sections []report.Section) {
	t.Helper()
	for _, scenario := range p.Scenarios {
		plan, err := scenario.Plan(o)
		require.NoError(t, err)
		if plan.Close != nil {
			t.Cleanup(plan.Close)
		}
		s := report.Section{Name: scenario.Name, Title: scenario.Title, Notes: plan.Skipped}
		for _, g := range plan.Groups {
			for _, c := range g.Cases {
				var samples []measure.Sample
				for _, state := range states {
					x := sample(c.Result, state)
					x.State = state
					samples = append(samples, x)
				}
				s.Results = append(s.Results, report.Fold(c.Result, samples)...)
			}
		}
		sections = append(sections, s)
	}
	return sections
}

// Sample is one of a second in which each of ops operations took p50, which is 1 ns or more.
func Sample(ops int64, p50 time.Duration) measure.Sample {
	s := measure.Sample{Latencies: measure.NewHistogram(1), Ops: ops, Busy: time.Second, Elapsed: time.Second}
	measure.Record(s.Latencies, p50, ops)
	return s
}
