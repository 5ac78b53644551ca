package suite

import (
	"context"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
)

// A Scenario is one question that is asked of several subjects.
type Scenario struct {
	Name string
	// Title is one line; About says what the figures include and what not.
	Title, About string
	// Subjects are those that the scenario knows.
	Subjects []string
	// Plan says what there is to measure. It starts nothing yet.
	Plan func(o *Options) (Plan, error)
}

// Plan is what a scenario measures.
type Plan struct {
	Groups []Group
	// Close ends what the cases have started.
	Close func()
	// Skipped says what cannot be measured here, and why.
	Skipped []string
}

// Group is what is compared: its cases run interleaved.
type Group struct {
	Cases []Case
	// Base is the case that the ratios of the others are relative to.
	Base int
	// Bases, if not nil, is that of each case instead.
	Bases []int
	// NoRatio: the cases are too different to be compared.
	NoRatio bool
	// Rounds, if not 0, replaces that of the options.
	Rounds int
}

// Case is one subject under one set of conditions.
type Case struct {
	// Result identifies the case.
	Result report.Result
	// Duration, if not 0, replaces that of the options.
	Duration time.Duration
	// Run measures for about d. It warms up first, and checks what it gets.
	Run func(ctx context.Context, d time.Duration) (measure.Sample, error)
}
