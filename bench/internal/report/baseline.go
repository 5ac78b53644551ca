package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Change is how one metric of one result differs from the baseline.
type Change struct {
	Result *Result
	Metric string
	// Before and Now are the figures. Factor is how much worse it got: 1 is
	// equal, 2 is twice as bad, 0.5 twice as good.
	Before, Now, Factor float64
	// Tolerance is what counts as noise: factors from 1/Tolerance to Tolerance.
	Tolerance float64
}

// Comparison is the result of [Compare].
type Comparison struct {
	Worse, Better []Change
	// Same counts the metrics within the noise, and Missing the results of the
	// baseline that this run did not measure.
	Same, Missing int
	// Nothing says that no result could be compared.
	Nothing bool
	// Warnings say why the two runs may not be comparable.
	Warnings []string
	// Drift is by how much the limits of the machine itself got slower, 1 if they
	// did not or were not measured. It widens what counts as noise.
	Drift float64
}

// A metric that runs are compared by.
type metric struct {
	name  string
	value func(r *Result) float64
	// more says that more is better.
	more bool
	// floor is the least relative difference that counts, however calm the rounds
	// were: two runs of the same program differ by more than its rounds do.
	floor float64
	// ignore is the absolute difference below which nothing counts.
	ignore float64
}

var metrics = []metric{
	{name: "p50_ns", value: func(r *Result) float64 { return float64(r.P50) }, floor: 0.10},
	{name: "p99_ns", value: func(r *Result) float64 { return float64(r.P99) }, floor: 0.50},
	{name: "ops_per_s", value: func(r *Result) float64 {
		if r.Rate > 0 {
			return 0 // is what was asked for
		}
		return r.OpsPerS
	}, more: true, floor: 0.10},
	{name: "allocs_per_op", value: func(r *Result) float64 {
		if r.Allocs == nil {
			return 0
		}
		return *r.Allocs
	}, floor: 0.10, ignore: 0.5},
	{name: "threads", value: func(r *Result) float64 { return float64(r.Threads) }, floor: 0.25, ignore: 3},
	{name: "rss_bytes", value: func(r *Result) float64 { return float64(r.RSS) }, floor: 0.25, ignore: 4 << 20},
}

// Compare says what changed from before to now beyond the noise. The noise of a
// metric is how far its rounds in this run were apart, twice, for the baseline
// had as much; or the metric's floor if that is more; and what the machine's own
// limits drifted by in between.
func Compare(before, now Document) Comparison {
	old := make(map[string]*Result)
	for i := range before.Results {
		old[before.Results[i].key()] = &before.Results[i]
	}
	c := Comparison{Drift: 1}
	for _, f := range []struct{ name, before, now string }{
		{"CPU", before.Env.CPU, now.Env.CPU},
		{"number of cores", fmt.Sprint(before.Env.Cores), fmt.Sprint(now.Env.Cores)},
		{"GOMAXPROCS", fmt.Sprint(before.Env.GOMAXPROCS), fmt.Sprint(now.Env.GOMAXPROCS)},
		{"kernel", before.Env.Kernel, now.Env.Kernel},
		{"Go version", before.Env.Go, now.Env.Go},
	} {
		if f.before != f.now {
			c.Warnings = append(c.Warnings, fmt.Sprintf("the %s differs: %s in the baseline, %s now", f.name, f.before, f.now))
		}
	}
	var drifts []float64
	for i := range now.Results {
		r := &now.Results[i]
		if b := old[r.key()]; b != nil && r.Scenario == "limit" && b.P50 > 0 && r.P50 > 0 {
			drifts = append(drifts, float64(r.P50)/float64(b.P50))
		}
	}
	if len(drifts) > 0 {
		slices.Sort(drifts)
		c.Drift = drifts[len(drifts)/2]
	}
	seen := 0
	for i := range now.Results {
		r := &now.Results[i]
		b := old[r.key()]
		if b == nil {
			continue
		}
		seen++
		for _, m := range metrics {
			x, y := m.value(b), m.value(r)
			if m.name == "allocs_per_op" && b.Allocs != nil && r.Allocs != nil {
				x, y = x+0.01, y+0.01 // none at all is a figure too
			}
			if x <= 0 || y <= 0 {
				continue
			}
			change := Change{Result: r, Metric: m.name, Before: x, Now: y, Factor: y / x}
			if m.more {
				change.Factor = x / y
			}
			change.Tolerance = 1 + max(m.floor, 2*r.Noise[m.name])
			if m.name == "p50_ns" || m.name == "p99_ns" || m.name == "ops_per_s" {
				change.Tolerance *= max(c.Drift, 1/c.Drift)
			}
			switch {
			case math.Abs(y-x) <= m.ignore:
				c.Same++
			case change.Factor > change.Tolerance:
				c.Worse = append(c.Worse, change)
			case change.Factor < 1/change.Tolerance:
				c.Better = append(c.Better, change)
			default:
				c.Same++
			}
		}
	}
	c.Missing = len(before.Results) - seen
	if c.Nothing = seen == 0; c.Nothing {
		c.Warnings = append(c.Warnings, "nothing could be compared: the baseline has other scenarios, or the machine was in another state")
	}
	bad := func(a, b Change) int { return -cmpFloat(a.Factor/a.Tolerance, b.Factor/b.Tolerance) }
	slices.SortStableFunc(c.Worse, bad)
	slices.SortStableFunc(c.Better, func(a, b Change) int { return -bad(a, b) })
	return c
}

func cmpFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Write writes the comparison for people.
func (c *Comparison) Write(w io.Writer) {
	fmt.Fprintln(w, "Compared with the baseline")
	for _, s := range c.Warnings {
		fmt.Fprintln(w, "  warning:", s)
	}
	if c.Drift > 1.05 || c.Drift < 0.95 {
		fmt.Fprintf(w, "  the machine's own limits take %s times as long as then\n", factor(c.Drift))
	}
	list := func(title string, changes []Change) {
		if len(changes) == 0 {
			return
		}
		fmt.Fprintf(w, "  %s:\n", title)
		for _, change := range changes {
			r := change.Result
			fmt.Fprintf(w, "    %s %s, %s: %s %s, was %s (%+.0f %%, noise %.0f %%)\n", r.Scenario, r.Name(), r.Conditions(),
				change.Metric, metricValue(change.Metric, change.Now), metricValue(change.Metric, change.Before),
				100*(change.Now/change.Before-1), 100*(change.Tolerance-1))
		}
	}
	list("worse", c.Worse)
	list("better", c.Better)
	fmt.Fprintf(w, "  %d worse, %d better, %d within the noise", len(c.Worse), len(c.Better), c.Same)
	if c.Missing > 0 {
		fmt.Fprintf(w, ", %d results of the baseline not measured now", c.Missing)
	}
	fmt.Fprintln(w)
}

func metricValue(name string, x float64) string {
	switch {
	case strings.HasSuffix(name, "_ns"):
		return Latency(int64(x))
	case name == "rss_bytes":
		return memory(int64(x))
	}
	return Count(x)
}
