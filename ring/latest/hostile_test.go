package latest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring/internal/shared"
)

func put(mem []byte, off int, v uint64) { binary.NativeEndian.PutUint64(mem[off:], v) }

func TestHostileHeaders(t *testing.T) {
	for _, c := range []struct {
		off  int
		what string
		bad  []uint64
	}{
		{offMagic, "magic", []uint64{0, countersMagic, cellMagic + 1}},
		{offVersion, "version", []uint64{0, 2, math.MaxUint64}},
		{offSlots, "slots", []uint64{0, 1, 3, 8, MaxSlots, 2 * MaxSlots, 1 << 32, 1 << 63, math.MaxUint64}},
		{offSize, "bytes", []uint64{0, 129, MaxSize, MaxSize + 1, 1 << 32, 1<<32 + 64, 1 << 63, math.MaxUint64}},
	} {
		for _, bad := range c.bad {
			mem, _, _ := newCell(t, 64, 4)
			put(mem, c.off, bad)
			_, err := NewReader(mem)
			require.ErrorIs(t, err, ErrLayout, "%s %d", c.what, bad)
		}
	}
	mem, _, _ := newCell(t, 64, 4)
	for _, n := range []int{0, 8, padding - 1, padding, offValues, len(mem) - 1} {
		_, err := NewReader(mem[:n])
		require.ErrorIs(t, err, ErrLayout, "%d bytes", n)
	}
	_, err := NewReader(append(make([]byte, 1, len(mem)+1), mem...)[1:])
	require.ErrorIs(t, err, ErrLayout, "not aligned")
}

// A header that changes after it was checked changes nothing.
func TestHeaderIsReadOnce(t *testing.T) {
	mem, w, r := newCell(t, 64, 4)
	for off := 0; off < padding; off++ {
		mem[off] = 0xff
	}
	p := make([]byte, 64)
	fill(p, 1)
	_, err := w.Store(p)
	require.NoError(t, err)
	clear(p)
	v, err := r.Load(p)
	require.NoError(t, err)
	require.True(t, isWhole(p, v))
	require.Equal(t, 64, r.Size())
}

// Words that nobody changes any more, whoever has left them.
func TestWordsOfADeadWriter(t *testing.T) {
	const most = math.MaxUint64
	for _, c := range []struct {
		latest, writing uint64
		ok              bool
	}{
		{0, 0, true},
		{0, 1, true}, // it has died in the middle of its first Store
		{41, 41, true},
		{41, 42, true},
		{most, most, true},
		{most, 0, true}, // versions wrap
		{41, 40, false},
		{41, 0, false},
		{41, 43, false}, // 42 was never published
		{41, 44, false},
		{41, 45, false},
		{41, 1 << 62, false},
		{41, most, false},
		{0, most, false},
		{1 << 63, 0, false},
		{0, 1 << 63, false},
		{most, 1, false},
	} {
		mem, _, r := newCell(t, 64, 4)
		put(mem, offLatest, c.latest)
		put(mem, offWriting, c.writing)
		fill(r.slot(mem, c.latest), 99)
		p := make([]byte, 64)
		v, err := r.Load(p)
		if !c.ok {
			require.ErrorIs(t, err, ErrCorrupt, "%+v", c)
			continue
		}
		require.NoError(t, err, "%+v", c)
		require.Equal(t, c.latest, v)
		require.True(t, isWhole(p, 99))
	}
}

// A writer whose words always look as if the reader was just overtaken. The reader copies
// each value over the words, so it is its own hostile writer, at the worst of moments.
func TestLoadGivesUp(t *testing.T) {
	mem, _, r := newCell(t, 16, 4)
	versions := []uint64{0, 1<<62 + 1, 2<<62 + 2, 3<<62 + 3}
	for i, v := range versions {
		next := versions[(i+1)%4]
		put(r.slot(mem, v), 0, next)
		put(r.slot(mem, v), 8, next)
	}
	_, err := r.Load(mem[offWriting : offWriting+16])
	require.ErrorIs(t, err, ErrOvertaken)
}

// Somebody stores anything anywhere while readers load.
func TestHostileWriterAtFullSpeed(t *testing.T) {
	mem, _, r := newCell(t, 4096, 4)
	var stop atomic.Bool
	var hostile, readers sync.WaitGroup
	hostile.Go(func() {
		for x := uint64(1); !stop.Load(); x = x*6364136223846793005 + 1442695040888963407 {
			if x>>32%64 == 0 {
				runtime.Gosched() // with one processor
			}
			switch x >> 61 {
			case 0:
				atomic.StoreUint64(r.writing, x)
			case 1:
				atomic.StoreUint64(r.latest, x)
			case 2, 3:
				latest := atomic.AddUint64(r.latest, 4)
				atomic.StoreUint64(r.writing, latest+x>>40%3)
			default:
				atomic.StoreUint64(shared.At64(mem, int(x%uint64(len(mem)))&^7), x)
			}
		}
	})
	for range 2 {
		readers.Go(func() {
			p := make([]byte, 4096)
			for corrupt := 0; corrupt < 100; {
				switch _, err := r.Load(p); {
				case errors.Is(err, ErrCorrupt):
					corrupt++
				case err != nil && !errors.Is(err, ErrOvertaken):
					t.Error(err)
					return
				default:
					runtime.Gosched()
				}
			}
		})
	}
	readers.Wait()
	stop.Store(true)
	hostile.Wait()
}

func TestHostileCounters(t *testing.T) {
	n, err := CountersSize(4, false)
	require.NoError(t, err)
	for _, c := range []struct {
		off int
		bad []uint64
	}{
		{offMagic, []uint64{0, cellMagic}},
		{offVersion, []uint64{0, 2}},
		{offCounters, []uint64{0, 5, MaxCounters, MaxCounters + 1, 1 << 57, 1 << 61, math.MaxUint64}},
		{offStride, []uint64{0, 1, 16, 127, 1 << 32, math.MaxUint64}},
	} {
		for _, bad := range c.bad {
			mem := make([]byte, n)
			_, err := NewCounters(mem, 4, false)
			require.NoError(t, err)
			put(mem, c.off, bad)
			_, err = OpenCounters(mem)
			require.ErrorIs(t, err, ErrLayout, "%#x at %#x", bad, c.off)
		}
	}
	for _, size := range []int{0, 64, padding, n - 1} {
		_, err := OpenCounters(make([]byte, size))
		require.ErrorIs(t, err, ErrLayout)
	}
}

// FuzzReader loads from memory that is anything. Each load gives a value or an error, and
// the value is that of the slot that the words name.
func FuzzReader(f *testing.F) {
	good, _, _ := newCell(f, 64, 4)
	f.Add(good, uint64(1), uint64(2))
	f.Add(good[:offValues], uint64(0), uint64(0))
	for _, off := range []int{offMagic, offVersion, offSlots, offSize, offWriting, offLatest} {
		for _, v := range []uint64{0, 1, 5, 1 << 63, math.MaxUint64} {
			bad := append([]byte(nil), good...)
			put(bad, off, v)
			f.Add(bad, v, v+1)
		}
	}
	f.Fuzz(func(t *testing.T, memory []byte, writing, latest uint64) {
		mem := make([]byte, len(memory)) // at a multiple of 8
		copy(mem, memory)
		r, err := NewReader(mem)
		if err != nil {
			require.ErrorIs(t, err, ErrLayout)
			return
		}
		dst := make([]byte, r.Size())
		load := func() {
			v, err := r.Load(dst)
			if err != nil {
				require.ErrorIs(t, err, ErrCorrupt) // nobody overtakes it
				return
			}
			require.Equal(t, r.Version(), v)
			require.LessOrEqual(t, binary.NativeEndian.Uint64(mem[offWriting:])-v, uint64(1))
			require.Equal(t, r.slot(mem, v), dst)
		}
		load()
		put(mem, offWriting, writing)
		put(mem, offLatest, latest)
		load()
	})
}

// FuzzCounters opens counters in memory that is anything.
func FuzzCounters(f *testing.F) {
	for _, packed := range []bool{false, true} {
		n, err := CountersSize(3, packed)
		require.NoError(f, err)
		mem := make([]byte, n)
		_, err = NewCounters(mem, 3, packed)
		require.NoError(f, err)
		f.Add(mem)
		f.Add(mem[:n-8])
	}
	f.Fuzz(func(t *testing.T, memory []byte) {
		mem := make([]byte, len(memory))
		copy(mem, memory)
		c, err := OpenCounters(mem)
		if err != nil {
			require.ErrorIs(t, err, ErrLayout)
			return
		}
		counts := c.Snapshot(nil)
		require.Len(t, counts, c.Len())
		for i, n := range counts {
			require.Equal(t, n, c.Load(i), fmt.Sprint(i))
		}
	})
}
