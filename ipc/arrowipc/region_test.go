package arrowipc_test

import (
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/arrowipc"
)

// What is built in a region is sent where it lies, to several receivers.
func TestRegionIsNotCopied(t *testing.T) {
	const rows = 10_000
	var p pipe
	s, err := arrowipc.NewSender(ipc.NewArena(ipc.ArenaOptions{}), numbers, &p)
	require.NoError(t, err)
	defer s.Close()
	region, err := s.NewRegion(t.Context(), 1<<18)
	require.NoError(t, err)
	b := array.NewInt64Builder(region)
	b.Reserve(rows)
	for i := range rows {
		b.UnsafeAppend(int64(i))
	}
	column := b.NewArray()
	b.Release()
	rec := array.NewRecordBatch(numbers, []arrow.Array{column}, rows)
	column.Release()
	require.NoError(t, s.SendFrom(t.Context(), region, rec))
	require.NoError(t, s.SendFrom(t.Context(), region, rec))

	// Another batch, and one that is built later, are sent, too, but not from there.
	later := array.NewInt64Builder(region)
	later.AppendValues([]int64{1, 2}, nil)
	column = later.NewArray()
	other := array.NewRecordBatch(numbers, []arrow.Array{column}, 2)
	require.NoError(t, s.SendFrom(t.Context(), region, other))

	built := rec.Column(0).Data().Buffers()[1].Bytes()
	items := p.items
	require.True(t, within(built, items[0].Batch.Bytes()))
	require.Equal(t, &items[0].Batch.Bytes()[0], &items[1].Batch.Bytes()[0])
	require.False(t, within(items[2].Batch.Bytes(), items[0].Batch.Bytes()))
	require.Less(t, items[0].Batch.Len(), 8*rows+16<<10)

	r := arrowipc.NewReceiver(&p, arrowipc.ReadOptions{})
	for _, want := range []arrow.RecordBatch{rec, rec, other} {
		got, err := r.Receive(t.Context())
		require.NoError(t, err)
		requireSame(t, want, got)
		if want == rec {
			require.Equal(t, &built[0], &got.Column(0).Data().Buffers()[1].Bytes()[0], "they are the same memory")
		}
		got.Release()
	}
	rec.Release()
	region.Release()
	region.Release()
}

// Batches of all types, whole ones and slices, come through regions of any size.
func TestRegionProperty(t *testing.T) {
	arena := ipc.NewArena(ipc.ArenaOptions{})
	fromThere := 0
	rapid.Check(t, func(rt *rapid.T) {
		columns := rapid.SliceOfN(rapid.SampledFrom(types), 1, 5).Draw(rt, "types")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		var p pipe
		like := makeRecord(t, memory.DefaultAllocator, r, 0, columns...)
		s, err := arrowipc.NewSender(arena, like.Schema(), &p)
		require.NoError(rt, err)
		defer s.Close()
		region, err := s.NewRegion(t.Context(), rapid.SampledFrom([]int{0, 100, 5000, 100_000, 1 << 20}).Draw(rt, "size"))
		require.NoError(rt, err)
		defer region.Release()
		n := rapid.IntRange(0, 100).Draw(rt, "rows")
		rec := makeRecord(t, region, r, n, columns...)
		from := rapid.IntRange(0, n).Draw(rt, "from")
		part := rec.NewSlice(int64(from), int64(rapid.IntRange(from, n).Draw(rt, "to")))
		defer part.Release()
		rec.Release()
		require.NoError(rt, s.SendFrom(t.Context(), region, part))
		require.NoError(rt, s.SendFrom(t.Context(), region, part))
		if p.items[0].Batch.Len() > 0 && &p.items[0].Batch.Bytes()[0] == &p.items[1].Batch.Bytes()[0] {
			fromThere++
		}
		receiver := arrowipc.NewReceiver(&p, arrowipc.ReadOptions{})
		for range 2 {
			got, err := receiver.Receive(t.Context())
			require.NoError(rt, err)
			requireSame(rt, part, got)
			got.Release()
		}
	})
	require.Positive(t, fromThere)
}

// A region is an allocator: what it gives is zero at first, and nobody else's.
func TestRegionAllocates(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := arrowipc.NewSender(ipc.NewArena(ipc.ArenaOptions{}), numbers, new(pipe))
		require.NoError(rt, err)
		region, err := s.NewRegion(t.Context(), rapid.IntRange(0, 10_000).Draw(rt, "size"))
		require.NoError(rt, err)
		defer region.Release()
		type piece struct {
			mem  []byte
			mark byte
		}
		var held []piece
		mark := byte(0)
		set := func(p *piece) {
			for i := range p.mem {
				p.mem[i] = p.mark
			}
		}
		for range rapid.IntRange(0, 40).Draw(rt, "steps") {
			mark = mark%200 + 1
			if len(held) == 0 || rapid.Bool().Draw(rt, "new") {
				p := piece{region.Allocate(rapid.IntRange(0, 3000).Draw(rt, "n")), mark}
				for _, x := range p.mem {
					require.Zero(rt, x)
				}
				set(&p)
				held = append(held, p)
				continue
			}
			i := rapid.IntRange(0, len(held)-1).Draw(rt, "which")
			p := &held[i]
			for _, x := range p.mem {
				require.Equal(rt, p.mark, x)
			}
			if rapid.Bool().Draw(rt, "free") {
				region.Free(p.mem)
				held = append(held[:i], held[i+1:]...)
				continue
			}
			old := len(p.mem)
			n := rapid.IntRange(0, 3000).Draw(rt, "more")
			p.mem = region.Reallocate(n, p.mem)
			require.Len(rt, p.mem, n)
			for _, x := range p.mem[:min(old, n)] {
				require.Equal(rt, p.mark, x)
			}
			set(p)
		}
	})
}
