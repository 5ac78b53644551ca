package arrowipc_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/arrowipc"
)

// backing is memory that says when it was freed.
type backing struct {
	bytes  []byte
	freed  int
	frozen bool
}

func (b *backing) Bytes() []byte             { return b.bytes }
func (b *backing) Region() (ipc.Region, int) { return nil, 0 }
func (b *backing) Frozen() bool              { return b.frozen }

// Free makes the memory what no batch is, so that who still reads it fails.
func (b *backing) Free(bool) {
	b.freed++
	for i := range b.bytes {
		b.bytes[i] = 0xf5
	}
}

// encoded returns what Encode makes of the batch, in memory of its own that is aligned.
func encoded(t testing.TB, rec arrow.RecordBatch) *backing {
	t.Helper()
	b, err := arrowipc.Encode(t.Context(), ipc.NewArena(ipc.ArenaOptions{}), rec)
	require.NoError(t, err)
	defer b.Release()
	mem := memory.DefaultAllocator.Allocate(b.Len())
	copy(mem, b.Bytes())
	return &backing{bytes: mem}
}

// buffersOf returns all memory of arrays, also of those in them.
func buffersOf(d arrow.ArrayData) (all [][]byte) {
	for _, b := range d.Buffers() {
		if b != nil && b.Len() > 0 {
			all = append(all, b.Bytes())
		}
	}
	for _, c := range d.Children() {
		all = append(all, buffersOf(c)...)
	}
	if d.DataType().ID() == arrow.DICTIONARY {
		all = append(all, buffersOf(d.Dictionary())...)
	}
	return all
}

func recordBuffers(rec arrow.RecordBatch) (all [][]byte) {
	for _, c := range rec.Columns() {
		all = append(all, buffersOf(c.Data())...)
	}
	return all
}

// The arrays of a receiver lie in the buffer, and begin at multiples of 64 bytes of it.
func TestArraysLieInTheBuffer(t *testing.T) {
	rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(1, 2)), 100, types...)
	defer rec.Release()
	m := encoded(t, rec)
	got, err := arrowipc.Decode(ipc.NewBuffer(m), arrowipc.ReadOptions{})
	require.NoError(t, err)
	defer got.Release()
	all := recordBuffers(got)
	require.Greater(t, len(all), len(types))
	for i, b := range all {
		require.True(t, within(b, m.bytes), "buffer %d is elsewhere", i)
		at := slices.IndexFunc(m.bytes, func(byte) bool { return true })
		for ; !within(b, m.bytes[at:at+len(b)]); at += 64 {
			require.LessOrEqual(t, at+64+len(b), len(m.bytes), "buffer %d is not aligned", i)
		}
	}
}

// With Copy, and where the bytes are not aligned, they are copied and the buffer is free at once.
func TestCopies(t *testing.T) {
	rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(1, 2)), 100, types...)
	defer rec.Release()
	for _, aligned := range []bool{true, false} {
		m := encoded(t, rec)
		if !aligned {
			m.bytes = shifted(m.bytes)
		}
		b := ipc.NewBuffer(m)
		got, err := arrowipc.Decode(b, arrowipc.ReadOptions{Copy: aligned})
		require.NoError(t, err)
		require.Zero(t, m.freed, "it is the caller's")
		b.Release()
		require.Equal(t, 1, m.freed)
		requireSame(t, rec, got)
		for _, x := range recordBuffers(got) {
			require.False(t, within(x, m.bytes))
		}
		got.Release()
	}
}

func TestFrozen(t *testing.T) {
	rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(1, 2)), 10, arrow.PrimitiveTypes.Int64)
	defer rec.Release()
	m := encoded(t, rec)
	b := ipc.NewBuffer(m)
	_, err := arrowipc.Decode(b, arrowipc.ReadOptions{Frozen: true})
	require.ErrorIs(t, err, arrowipc.ErrNotFrozen)
	m.frozen = true
	got, err := arrowipc.Decode(b, arrowipc.ReadOptions{Frozen: true})
	require.NoError(t, err)
	got.Release()
	require.Zero(t, m.freed)
	b.Release()
	require.Equal(t, 1, m.freed)
}

// released is what has to be released: batches and arrays.
type released interface {
	Retain()
	Release()
}

// A buffer is released exactly when the last of what was made of its batch is: the batch, its columns,
// slices, what is in them, in any order.
func TestBufferIsReleasedWithTheLastUse(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		columns := rapid.SliceOfN(rapid.SampledFrom(types), 1, 5).Draw(rt, "types")
		rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1)), 20, columns...)
		defer rec.Release()
		m := encoded(t, rec)
		b := ipc.NewBuffer(m)
		got, err := arrowipc.Decode(b, arrowipc.ReadOptions{})
		require.NoError(rt, err)
		held := []released{got}
		if rapid.Bool().Draw(rt, "first") {
			b.Release()
		} else {
			defer b.Release()
		}
		bufferHeld := m.freed == 0 && !isReleased(b)
		uses := len(recordBuffers(got)) > 0
		for len(held) > 0 {
			if uses || bufferHeld {
				require.Zero(rt, m.freed)
			}
			i := rapid.IntRange(0, len(held)-1).Draw(rt, "which")
			x := held[i]
			switch op := rapid.IntRange(0, 4).Draw(rt, "op"); {
			case op == 0 && len(held) < 8:
				x.Retain()
				held = append(held, x)
			case op == 1 && len(held) < 8:
				if rec, ok := x.(arrow.RecordBatch); ok {
					held = append(held, rec.NewSlice(rec.NumRows()/3, rec.NumRows()))
				}
			case op == 2 && len(held) < 8:
				if rec, ok := x.(arrow.RecordBatch); ok {
					// Only whole columns: they have buffers if the batch has.
					for _, c := range rec.Columns() {
						c.Retain()
						held = append(held, c)
					}
				}
			default:
				x.Release()
				held = slices.Delete(held, i, i+1)
				uses = slices.ContainsFunc(held, hasBuffers)
			}
		}
		if bufferHeld {
			require.Zero(rt, m.freed)
			b.Release()
		}
		require.Equal(rt, 1, m.freed)
	})
}

func hasBuffers(x released) bool {
	switch x := x.(type) {
	case arrow.RecordBatch:
		return len(recordBuffers(x)) > 0
	case arrow.Array:
		return len(buffersOf(x.Data())) > 0
	}
	return false
}

func isReleased(b ipc.Buffer) (yes bool) {
	defer func() { yes = recover() != nil }()
	b.Len()
	return false
}
