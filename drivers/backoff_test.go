package drivers_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
)

func TestBackoffGrowsUpToTheLimit(t *testing.T) {
	for range 100 {
		g := drivers.NewBackoff(time.Second, 6*time.Second)
		for range 2 {
			for _, want := range []time.Duration{1, 2, 4, 6, 6, 6} {
				got := g.Next()
				require.GreaterOrEqual(t, got, want*time.Second*3/4-1)
				require.LessOrEqual(t, got, min(want*time.Second*5/4+1, 6*time.Second))
			}
			g.Reset()
		}
	}
}

func TestExtremeBackoffs(t *testing.T) {
	for _, first := range []time.Duration{1, time.Hour, math.MaxInt64/2 + 1, math.MaxInt64 - 1, math.MaxInt64} {
		for _, limit := range []time.Duration{1, time.Hour, math.MaxInt64/2 + 1, math.MaxInt64 - 1, math.MaxInt64} {
			g := drivers.NewBackoff(first, limit)
			for range 100 {
				got := g.Next()
				require.GreaterOrEqual(t, got, min(first, limit)/4, "%v, %v", first, limit)
				require.LessOrEqual(t, got, limit)
			}
		}
	}
}
