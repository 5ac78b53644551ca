package report

import (
	"slices"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// Find returns the samples of the result that id identifies, nil if there is none. Those of
// rounds in which the machine was in another state are empty.
type Find func(id Result) []measure.Sample

// Of is a figure of one result.
func Of(id Result, f func(measure.Sample) float64) func(Find) measure.Spread {
	return func(find Find) measure.Spread {
		return measure.SpreadOf(measure.Each(slices.DeleteFunc(slices.Clone(find(id)), measure.Sample.Empty), f))
	}
}

// Over is a figure of one result over that of another, or over the sum of those of
// several.
func Over(f func(measure.Sample) float64, id Result, bases ...Result) func(Find) measure.Spread {
	return func(find Find) measure.Spread {
		var sum []float64
		for i, base := range bases {
			figures := measure.Each(find(base), f)
			if i == 0 {
				sum = figures
				continue
			}
			sum = sum[:min(len(sum), len(figures))]
			for j := range sum {
				if sum[j] == 0 || figures[j] == 0 {
					sum[j] = 0 // a round that one of them lacks
				} else {
					sum[j] += figures[j]
				}
			}
		}
		return measure.Ratios(measure.Each(find(id), f), sum)
	}
}
