package latest

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func newCounters(tb testing.TB, n int, packed bool) (c, r *Counters) {
	tb.Helper()
	size, err := CountersSize(n, packed)
	require.NoError(tb, err)
	mem := make([]byte, size)
	for i := range mem {
		mem[i] = 0xa5
	}
	c, err = NewCounters(mem, n, packed)
	require.NoError(tb, err)
	r, err = OpenCounters(mem)
	require.NoError(tb, err)
	return c, r
}

func TestCounters(t *testing.T) {
	for _, packed := range []bool{false, true} {
		for _, n := range []int{1, 2, 17, 1000} {
			c, r := newCounters(t, n, packed)
			require.Equal(t, n, r.Len())
			want := make([]uint64, n)
			require.Equal(t, want, r.Snapshot(nil))
			for i := range want {
				c.Store(i, uint64(10*i))
				want[i] = uint64(10*i) + 3
				require.Equal(t, want[i], c.Add(i, 3))
				require.Equal(t, want[i], r.Load(i))
			}
			require.Equal(t, append([]uint64{1}, want...), r.Snapshot([]uint64{1}))
			require.EqualValues(t, 2, c.Add(0, ^uint64(0)), "less one")
			for _, i := range []int{-1, n, 1 << 30} {
				require.Panics(t, func() { r.Load(i) })
				require.Panics(t, func() { c.Add(i, 1) })
			}
		}
	}
	for _, n := range []int{-1, 0, MaxCounters + 1} {
		_, err := CountersSize(n, true)
		require.ErrorIs(t, err, ErrLayout)
		_, err = NewCounters(make([]byte, 1024), n, true)
		require.ErrorIs(t, err, ErrLayout)
	}
	_, err := NewCounters(make([]byte, 1024), 100, false)
	require.ErrorIs(t, err, ErrLayout)
}

// Nothing that is added is lost, and no snapshot has more finished than started.
func TestCountersTogether(t *testing.T) {
	const finished, started, each = 0, 1, 20000
	for _, packed := range []bool{false, true} {
		c, r := newCounters(t, 2, packed)
		var adders, readers sync.WaitGroup
		var stop atomic.Bool
		for range 2 {
			readers.Go(func() {
				var counts []uint64
				var last [2]uint64
				for !stop.Load() {
					counts = r.Snapshot(counts[:0])
					if counts[finished] > counts[started] {
						t.Errorf("%d finished of %d", counts[finished], counts[started])
						return
					}
					for i, n := range counts {
						if n < last[i] {
							t.Errorf("counter %d is %d after %d", i, n, last[i])
							return
						}
						last[i] = n
					}
					runtime.Gosched()
				}
			})
		}
		for range 3 {
			adders.Go(func() {
				for range each {
					c.Add(started, 1)
					c.Add(finished, 1)
				}
			})
		}
		adders.Wait()
		stop.Store(true)
		readers.Wait()
		require.Equal(t, []uint64{3 * each, 3 * each}, r.Snapshot(nil))
	}
}
