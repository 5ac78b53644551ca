package latest

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ring/internal/shared"
)

// sizes are those around which anything changes, of copies and of geometry.
var sizes = []int{1, 7, 8, 9, 16, 63, 64, 127, 128, 129, 1000, 2047, 2048, 4096, 65536 + 3}

func TestStoreAndLoad(t *testing.T) {
	for _, size := range sizes {
		for _, slots := range []int{2, Slots(size), 32} {
			_, w, r := newCell(t, size, slots)
			require.Equal(t, size, r.Size())
			require.EqualValues(t, 7, r.Tag())
			in, out := make([]byte, size), make([]byte, size+8)
			for v := range uint64(3*slots + 1) {
				if v > 0 {
					fill(in, v)
					stored, err := w.Store(in)
					require.NoError(t, err)
					require.Equal(t, v, stored)
				}
				clear(in)
				for i := range out {
					out[i] = 0xa5
				}
				got, err := r.Load(out[1:][:size]) // not at a multiple of 8
				require.NoError(t, err)
				require.Equal(t, v, got)
				require.Equal(t, v, r.Version())
				require.True(t, isWhole(out[1:][:size], v))
				require.EqualValues(t, 0xa5, out[0])
				require.EqualValues(t, 0xa5, out[size+1])
			}
		}
	}
}

func TestWrongSize(t *testing.T) {
	_, w, r := newCell(t, 24, 4)
	for _, n := range []int{0, 8, 23, 25, 48} {
		v, err := w.Store(make([]byte, n))
		require.ErrorIs(t, err, ErrSize)
		require.Zero(t, v)
		_, err = r.Load(make([]byte, n))
		require.ErrorIs(t, err, ErrSize)
	}
	require.Zero(t, r.Version())
}

func TestSlots(t *testing.T) {
	for size, want := range map[int]int{1: 16, 128: 16, 129: 8, 512: 4, 4096: 4, MaxSize: 4} {
		require.Equal(t, want, Slots(size), "%d", size)
		_, err := MemorySize(size, want)
		require.NoError(t, err)
	}
	for _, bad := range [][2]int{{0, 4}, {-1, 4}, {MaxSize + 1, 4}, {8, 0}, {8, 1}, {8, 3}, {8, -4}, {8, 2 * MaxSlots}, {MaxSize, 64}} {
		_, err := MemorySize(bad[0], bad[1])
		require.ErrorIs(t, err, ErrLayout, "%v", bad)
		_, err = NewWriter(make([]byte, 1<<16), bad[0], bad[1], 0)
		require.ErrorIs(t, err, ErrLayout, "%v", bad)
	}
	_, err := NewWriter(make([]byte, 700), 128, 4, 0)
	require.ErrorIs(t, err, ErrLayout, "the memory is too short")
	_, err = NewWriter(make([]byte, 1<<16)[1:], 128, 4, 0)
	require.ErrorIs(t, err, ErrLayout, "the memory is not aligned")
}

// Whatever steps of a writer come between whatever steps of a reader: what the reader takes
// for whole is whole, it is no older than what was complete when the reader began, and the
// reader tries again only if the writer has completed all other slots meanwhile.
func TestEveryInterleaving(t *testing.T) {
	const words = 3
	var retries, whole int
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.SampledFrom([]int{2, 4, 8}).Draw(t, "slots")
		n, err := MemorySize(8*words, slots)
		require.NoError(t, err)
		mem := make([]byte, n)
		w, err := NewWriter(mem, 8*words, slots, 0)
		require.NoError(t, err)
		r, err := NewReader(mem)
		require.NoError(t, err)

		var slot []byte
		value := make([]byte, 8*words)
		wrote := -1 // words of the version that is being stored; -1 is none
		var complete uint64
		writerSteps := func() {
			switch {
			case wrote < 0:
				slot, wrote = w.begin(), 0
				fill(value, w.version)
			case wrote < words:
				shared.CopyIn(slot[8*wrote:8*wrote+8], value[8*wrote:])
				wrote++
			default:
				w.publish()
				complete, wrote = w.version, -1
			}
		}
		var v, atStart, atTry, last uint64
		dst := make([]byte, 8*words)
		read := -1
		readerSteps := func() {
			switch {
			case read < 0:
				v, read, atStart, atTry = r.Version(), 0, complete, complete
			case read < words:
				shared.CopyOut(dst[8*read:8*read+8], r.slot(mem, v)[8*read:8*read+8])
				read++
			default:
				next, err := r.check(v)
				require.NoError(t, err, "the writer is correct")
				if next != v {
					require.GreaterOrEqual(t, complete-atTry, uint64(slots-1), "it was not overtaken")
					v, read, atTry = next, 0, complete
					retries++
					return
				}
				require.True(t, isWhole(dst, v), "version %d is torn", v)
				require.GreaterOrEqual(t, v, atStart)
				require.GreaterOrEqual(t, v, last)
				last, read = v, -1
				whole++
			}
		}
		turns := rapid.SliceOfN(rapid.IntRange(0, 8*(words+2)), 1, 80).Draw(t, "turns")
		for i, turn := range turns {
			if i%2 == 1 {
				turn = turn % 4
			}
			for range turn + 1 {
				if i%2 == 0 {
					writerSteps()
				} else {
					readerSteps()
				}
			}
		}
	})
	require.NotZero(t, retries, "no reader was overtaken")
	require.NotZero(t, whole)
}

// hammer loads until it has seen n different versions, and checks each value.
func hammer(t interface{ Errorf(string, ...any) }, r *Reader, n int) {
	dst := make([]byte, r.Size())
	var last uint64
	for seen := 0; seen < n; {
		v, err := r.Load(dst)
		switch {
		case err != nil:
			t.Errorf("load: %v", err)
			return
		case v < last:
			t.Errorf("version %d after %d", v, last)
			return
		case !isWhole(dst, v):
			t.Errorf("version %d is torn", v)
			return
		}
		if v != last {
			seen++
		} else {
			runtime.Gosched() // there may be fewer processors than goroutines
		}
		last = v
	}
}

// versionsOf returns how many versions of this size a reader looks at.
func versionsOf(size int) int {
	n := min(10_000, 10_000_000/size)
	if raceEnabled || testing.Short() {
		n = max(50, n/50)
	}
	return n
}

// storeUntil stores as fast as it can until stop.
func storeUntil(w *Writer, stop *atomic.Bool) {
	p := make([]byte, w.size)
	for v := w.version + 1; !stop.Load(); v++ {
		fill(p, v)
		w.Store(p)
		if v%64 == 0 {
			runtime.Gosched() // with one processor
		}
	}
}

func TestReadersAtFullSpeed(t *testing.T) {
	for _, size := range []int{8, 64, 1000, 4096} {
		n := versionsOf(size)
		_, w, r := newCell(t, size, Slots(size))
		var stop atomic.Bool
		var writer, readers sync.WaitGroup
		writer.Go(func() { storeUntil(w, &stop) })
		for range 3 {
			readers.Go(func() { hammer(t, r, n) })
		}
		readers.Wait()
		stop.Store(true)
		writer.Wait()
		dst := make([]byte, size)
		v, err := r.Load(dst)
		require.NoError(t, err)
		require.Equal(t, w.version, v)
		require.True(t, isWhole(dst, v))
	}
}

func TestNoAllocations(t *testing.T) {
	_, w, r := newCell(t, 4096, 4)
	p := make([]byte, 4096)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		w.Store(p)
		r.Load(p)
	}))
}
