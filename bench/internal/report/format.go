package report

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// Size formats a number of bytes: 64, 4Ki, 1Mi.
func Size(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return strconv.Itoa(n>>20) + " MiB"
	case n >= 1<<10 && n%(1<<10) == 0:
		return strconv.Itoa(n>>10) + " KiB"
	}
	return strconv.Itoa(n) + " B"
}

// Latency formats nanoseconds with three digits and a unit.
func Latency(ns int64) string {
	switch x := float64(ns); {
	case ns <= 0:
		return ""
	case x < 999.5:
		return digits(x) + " ns"
	case x < 999.5e3:
		return digits(x/1e3) + " µs"
	case x < 999.5e6:
		return digits(x/1e6) + " ms"
	default:
		return digits(x/1e9) + " s"
	}
}

// Count formats a large number: 1.23 M.
func Count(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x < 999.5:
		return digits(x)
	case x < 999.5e3:
		return digits(x/1e3) + " k"
	case x < 999.5e6:
		return digits(x/1e6) + " M"
	default:
		return digits(x/1e9) + " G"
	}
}

// digits formats x, which is below 1000, with three digits at most.
func digits(x float64) string {
	decimals := 2
	switch {
	case x >= 99.95:
		decimals = 0
	case x >= 9.995:
		decimals = 1
	}
	s := strconv.FormatFloat(x, 'f', decimals, 64)
	if decimals > 0 {
		// 10.0 is 10, 1.20 is 1.2.
		for s[len(s)-1] == '0' {
			s = s[:len(s)-1]
		}
		if s[len(s)-1] == '.' {
			s = s[:len(s)-1]
		}
	}
	return s
}

func memory(n int64) string {
	if n <= 0 {
		return ""
	}
	return digits3(float64(n)/(1<<20)) + " MiB"
}

func digits3(x float64) string {
	if x >= 999.5 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return digits(x)
}

// pair formats a figure of both processes: host + worker.
func pair(host, worker *float64) string {
	if host == nil || worker == nil {
		return ""
	}
	return small(*host) + " + " + small(*worker)
}

// small formats a number that is often a count per operation.
func small(x float64) string {
	switch {
	case x < 0.005:
		return "0"
	case x >= 999.5:
		return Count(x)
	}
	return digits(x)
}

func ratio(s measure.Spread) string {
	switch {
	case s.N == 0:
		return ""
	case s.N == 1:
		return factor(s.Median)
	}
	return fmt.Sprintf("%s (%s to %s)", factor(s.Median), factor(s.Low), factor(s.High))
}

func factor(x float64) string {
	if x >= 999.5 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	if x > 0 && x < 0.1 {
		return strconv.FormatFloat(x, 'f', 1-int(math.Floor(math.Log10(x))), 64)
	}
	return digits(x)
}

func share(cpu *float64, elapsed time.Duration) float64 {
	if cpu == nil || elapsed <= 0 {
		return 0
	}
	return *cpu / elapsed.Seconds()
}
