package measure

import (
	"slices"
	"time"
)

// Sample is what one subject did in one round.
type Sample struct {
	// Latencies is nil where single operations are not timed.
	Latencies *Histogram
	// Ops were done in Busy, which leaves out preparing and checking where that
	// is possible, and moved Bytes of payload. Elapsed includes everything
	// between the two readings of Host and Worker.
	Ops, Bytes    int64
	Busy, Elapsed time.Duration
	// Host and Worker are what the two processes used meanwhile.
	Host, Worker Usage
	// Worst is [Worst] of the latencies of each caller.
	Worst float64
	// Private and Files are memory of the other process: see [Memory].
	Private, Files int64
	// Note says what a figure cannot.
	Note string
	// Line is what a cache line took at the time, and State what that means.
	Line  time.Duration
	State State
}

// Empty reports whether s stands for a round that was not measured.
func (s Sample) Empty() bool { return s.Elapsed == 0 && s.Busy == 0 && s.Ops == 0 }

// OpsPerSecond is 0 if nothing was counted.
func (s Sample) OpsPerSecond() float64 {
	if s.Busy <= 0 {
		return 0
	}
	return float64(s.Ops) / s.Busy.Seconds()
}

// P50 is the median latency in nanoseconds, 0 if latencies were not timed.
func (s Sample) P50() float64 {
	if s.Latencies == nil {
		return 0
	}
	return float64(s.Latencies.ValueAtPercentile(50))
}

// P99 is like P50.
func (s Sample) P99() float64 {
	if s.Latencies == nil {
		return 0
	}
	return float64(s.Latencies.ValueAtPercentile(99))
}

// P999 is like P50.
func (s Sample) P999() float64 {
	if s.Latencies == nil {
		return 0
	}
	return float64(s.Latencies.ValueAtPercentile(99.9))
}

// Cost is what a sample is compared by, smaller being better: the median
// latency, or else the time per operation.
func (s Sample) Cost() float64 {
	if p := s.P50(); p > 0 {
		return p
	}
	if ops := s.OpsPerSecond(); ops > 0 {
		return 1e9 / ops
	}
	return 0
}

// CPU is the processor time of an operation, of both processes, in nanoseconds.
func (s Sample) CPU() float64 {
	if s.Ops == 0 {
		return 0
	}
	return float64((s.Host.CPU + s.Worker.CPU).Nanoseconds()) / float64(s.Ops)
}

// Spread is a figure over several rounds.
type Spread struct {
	Median, Low, High float64
	N                 int
}

// SpreadOf returns the median, the least and the greatest of those.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return Spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Low: sorted[0], High: sorted[n-1], N: n}
}

// Noise is half the way from the least to the greatest, relative to the median.
func (s Spread) Noise() float64 {
	if s.Median == 0 {
		return 0
	}
	return (s.High - s.Low) / 2 / s.Median
}

// Ratios divides value by base, round by round: a machine that drifts from one
// round to the next changes both alike. Rounds that one of them lacks are
// left out. If no round has both, it divides the medians.
func Ratios(value, base []float64) Spread {
	var ratios []float64
	for i := range min(len(value), len(base)) {
		if value[i] > 0 && base[i] > 0 {
			ratios = append(ratios, value[i]/base[i])
		}
	}
	if ratios == nil {
		value, base := SpreadOf(present(value)), SpreadOf(present(base))
		if value.N > 0 && base.N > 0 {
			ratios = append(ratios, value.Median/base.Median)
		}
	}
	return SpreadOf(ratios)
}

// present returns the figures that are there.
func present(figures []float64) (those []float64) {
	for _, x := range figures {
		if x > 0 {
			those = append(those, x)
		}
	}
	return those
}

// InState returns the samples of one state, each at the index of its round, and empty ones
// in the other rounds.
func InState(samples []Sample, state State) []Sample {
	those := make([]Sample, len(samples))
	for i, s := range samples {
		if s.State == state {
			those[i] = s
		}
	}
	return those
}

// States returns the states of the samples, near before far, and Mixed only if there is no
// other.
func States(samples []Sample) (states []State) {
	for _, state := range []State{Unknown, Near, Far, Mixed} {
		if slices.ContainsFunc(samples, func(s Sample) bool { return s.State == state }) && (state != Mixed || states == nil) {
			states = append(states, state)
		}
	}
	return states
}

// Each maps samples to figures.
func Each(samples []Sample, f func(Sample) float64) []float64 {
	figures := make([]float64, len(samples))
	for i, s := range samples {
		figures[i] = f(s)
	}
	return figures
}
