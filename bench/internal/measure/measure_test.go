package measure

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSpread(t *testing.T) {
	require.Equal(t, Spread{}, SpreadOf(nil))
	require.Equal(t, Spread{Median: 3, Low: 3, High: 3, N: 1}, SpreadOf([]float64{3}))
	require.Equal(t, Spread{Median: 2, Low: 1, High: 9, N: 3}, SpreadOf([]float64{9, 1, 2}))
	s := SpreadOf([]float64{4, 1, 3, 2})
	require.Equal(t, Spread{Median: 2.5, Low: 1, High: 4, N: 4}, s)
	require.InDelta(t, 0.6, s.Noise(), 1e-9)
	require.Zero(t, Spread{}.Noise())
}

// A machine that gets ten times slower for a round must not change the ratio.
func TestRatiosCancelDrift(t *testing.T) {
	base := []float64{10, 100, 10, 20}
	value := []float64{50, 500, 50, 100}
	require.Equal(t, Spread{Median: 5, Low: 5, High: 5, N: 4}, Ratios(value, base))
	require.Equal(t, 1, Ratios([]float64{1, 0, 3}, []float64{2, 2}).N, "rounds that one lacks, or that have no figure, count for nothing")
	require.Equal(t, Spread{}, Ratios(nil, base))
	require.Equal(t, Spread{Median: 4, Low: 4, High: 4, N: 1}, Ratios([]float64{0, 8, 0, 0}, []float64{1, 0, 3, 0}), "the medians, if no round has both")
}

func TestStates(t *testing.T) {
	require.Equal(t, Near, StateOf(54, 130))
	require.Equal(t, Far, StateOf(250, 430))
	require.Equal(t, Mixed, StateOf(54, 430))
	require.Equal(t, Mixed, StateOf(430, 54))
	require.Equal(t, Unknown, StateOf(0, 0))
	near, far, mixed := Sample{Ops: 1, State: Near}, Sample{Ops: 2, State: Far}, Sample{Ops: 3, State: Mixed}
	require.Equal(t, []State{Near, Far}, States([]Sample{mixed, far, near}))
	require.Equal(t, []State{Mixed}, States([]Sample{mixed}))
	require.Empty(t, States(nil))
	require.Equal(t, []Sample{{}, far, {}}, InState([]Sample{near, far, mixed}, Far))
	require.True(t, Sample{}.Empty())
	require.False(t, near.Empty())
}

func TestLineTime(t *testing.T) {
	if runtime.NumCPU() < 2 {
		require.Zero(t, LineTime())
		return
	}
	old := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(old)
	require.Positive(t, LineTime())
	runtime.GOMAXPROCS(1)
	require.Zero(t, LineTime())
}

func TestSample(t *testing.T) {
	h := NewHistogram(1)
	Record(h, 100, 98)
	Record(h, 1000, 2)
	s := Sample{Latencies: h, Ops: 100, Busy: time.Second / 2}
	require.EqualValues(t, 100, s.P50())
	require.InDelta(t, 1000, s.P99(), 1)
	require.EqualValues(t, 200, s.OpsPerSecond())
	require.EqualValues(t, 100, s.Cost())
	s.Latencies = nil
	require.EqualValues(t, 5e6, s.Cost(), "without latencies, the time per operation")
	require.Zero(t, Sample{}.Cost())
}

func TestHistogramsOfGoroutinesMerge(t *testing.T) {
	hs := []*Histogram{NewHistogram(1), nil, NewHistogram(1000)}
	Record(hs[0], time.Hour, 1) // beyond what is tracked: counted as the longest
	Record(hs[0], -1, 1)
	Record(hs[2], time.Millisecond, 8)
	all := Merge(hs)
	require.EqualValues(t, 10, all.TotalCount())
	require.InEpsilon(t, float64(time.Millisecond), float64(all.ValueAtPercentile(50)), 0.01)
	require.InEpsilon(t, float64(longest), float64(all.Max()), 0.01)
	require.EqualValues(t, 1, all.Min())
}

func TestUsage(t *testing.T) {
	before := Self()
	var keep [][]byte
	for start := time.Now(); time.Since(start) < 5*time.Millisecond; {
		keep = append(keep[:len(keep)%10], make([]byte, 4096))
	}
	used := Self().Since(before)
	require.Greater(t, used.Mallocs, uint64(len(keep)))
	if runtime.GOOS != "linux" {
		return
	}
	require.Positive(t, used.CPU)
	require.Positive(t, used.Threads)
	require.Positive(t, used.RSS)
	require.GreaterOrEqual(t, used.PeakRSS, used.RSS/2)

	other, ok := Process(os.Getpid())
	require.True(t, ok)
	require.InDelta(t, float64(Self().CPU), float64(other.CPU), float64(50*time.Millisecond))
	_, ok = Process(1<<22 + 1) // beyond what Linux numbers
	require.False(t, ok)
	require.Positive(t, AvailableMemory())
}

func TestEnvironment(t *testing.T) {
	e := Environment()
	require.Equal(t, runtime.Version(), e.Go)
	require.Positive(t, e.Cores)
	require.Less(t, e.ClockNS, int64(time.Millisecond))
	if runtime.GOOS == "linux" {
		require.NotEmpty(t, e.CPU)
		require.Contains(t, e.Kernel, "Linux")
	}
}

func TestPacer(t *testing.T) {
	p, err := NewPacer()
	require.NoError(t, err)
	for range 3 {
		until := Now() + 2*time.Millisecond
		require.NoError(t, p.Until(until))
		require.GreaterOrEqual(t, Now(), until)
		require.NoError(t, p.Until(until), "is past")
	}
	require.NoError(t, p.Close())
}
