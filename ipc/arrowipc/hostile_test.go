package arrowipc_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	arrowlib "github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/arrowipc"
)

// decodeHostile decodes bytes as they may come from anybody, and uses what comes of them. However it ends
// the buffer is free after that, once.
func decodeHostile(t testing.TB, data []byte, o arrowipc.ReadOptions) error {
	mem := memory.DefaultAllocator.Allocate(len(data))
	copy(mem, data)
	m := &backing{bytes: mem}
	b := ipc.NewBuffer(m)
	rec, err := arrowipc.Decode(b, o)
	b.Release()
	if err == nil {
		for _, c := range rec.Columns() {
			require.EqualValues(t, rec.NumRows(), c.Len())
		}
		if o.Check == arrowipc.CheckValues {
			use(rec)
		}
		rec.Release()
	} else {
		require.ErrorIs(t, err, arrowipc.ErrMalformed)
		require.Nil(t, rec)
	}
	require.Equal(t, 1, m.freed)
	return err
}

// use reads every value of a batch.
func use(rec arrow.RecordBatch) {
	for _, c := range rec.Columns() {
		if endless(c.Data()) {
			return
		}
	}
	for _, c := range rec.Columns() {
		for i := range c.Len() {
			if c.IsValid(i) {
				touch(c, i)
			}
		}
	}
	s := rec.NewSlice(rec.NumRows()/2, rec.NumRows())
	array.RecordEqual(s, s)
	s.Release()
}

// endless reports whether d has very many elements, which can only be of types that take no memory.
func endless(d arrow.ArrayData) bool {
	return d.Len() > 1<<16 || slices.ContainsFunc(d.Children(), endless)
}

// touch reads value i of c, down to the last byte.
func touch(c arrow.Array, i int) (sum int) {
	switch c := c.(type) {
	case array.ListLike:
		from, to := c.ValueOffsets(i)
		for j := from; j < to; j++ {
			sum += touch(c.ListValues(), int(j))
		}
	case *array.Struct:
		for f := range c.NumField() {
			if c.Field(f).IsValid(i) {
				sum += touch(c.Field(f), i)
			}
		}
	case *array.Dictionary:
		if c.IsValid(i) {
			sum += touch(c.Dictionary(), c.GetValueIndex(i))
		}
	case *array.RunEndEncoded:
		sum += touch(c.Values(), c.GetPhysicalIndex(i))
	case *array.SparseUnion:
		sum += touch(c.Field(c.ChildID(i)), i)
	case *array.DenseUnion:
		sum += touch(c.Field(c.ChildID(i)), int(c.ValueOffset(i)))
	case array.ExtensionArray:
		sum += touch(c.Storage(), i)
	default:
		sum += len(c.ValueStr(i))
	}
	return sum
}

// eachType calls f with a batch of each type, encoded.
func eachType(t *testing.T, f func(t *testing.T, data []byte)) {
	for i, x := range types {
		t.Run(x.String(), func(t *testing.T) {
			rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(uint64(i), 1)), 5, x)
			defer rec.Release()
			f(t, encoded(t, rec).bytes)
		})
	}
}

// Whatever byte of a batch is another one, the result is an error or a batch that can be used.
func TestEveryByteMayBeWrong(t *testing.T) {
	eachType(t, func(t *testing.T, data []byte) {
		require.NoError(t, decodeHostile(t, data, arrowipc.ReadOptions{}))
		for i, old := range data {
			for _, x := range []byte{0, old + 1, 0xff} {
				if data[i] = x; x != old {
					_ = decodeHostile(t, data, arrowipc.ReadOptions{})
				}
			}
			_ = decodeHostile(t, data, arrowipc.ReadOptions{Check: arrowipc.CheckSizes})
			data[i] = old
		}
	})
}

// No buffer of an array is beyond the body of its message, whatever else is there.
func TestBuffersStayInTheBody(t *testing.T) {
	eachType(t, func(t *testing.T, data []byte) {
		all := memory.DefaultAllocator.Allocate(len(data) + 1<<16)
		copy(all, data)
		b := ipc.NewBuffer(&backing{bytes: all})
		defer b.Release()
		for i, old := range data {
			if word := i &^ 3; word >= 4 && binary.LittleEndian.Uint32(data[word-4:]) == 0xffffffff {
				continue // the size of the metadata, which says where the body begins
			}
			for _, x := range []byte{1, old + 8, 0xff} {
				all[i] = x
				got, err := arrowipc.Decode(b, arrowipc.ReadOptions{Check: arrowipc.CheckSizes})
				all[i] = old
				if err != nil {
					continue
				}
				for _, part := range recordBuffers(got) {
					require.True(t, within(part, all[:len(data)]), "with %#x as byte %d", x, i)
				}
				got.Release()
			}
		}
	})
}

// A batch that has more columns than the schema, or less, is an error.
func TestBatchOfAnotherSchema(t *testing.T) {
	number, text := arrow.PrimitiveTypes.Int64, arrow.BinaryTypes.String
	for _, x := range [][2][]arrow.DataType{
		{{number}, {number, number}}, {{number, number}, {number}}, {{number}, {text}}, {{text}, {number}},
		{{number}, {}}, {{}, {number}}, {{number}, {number, arrow.Null}}, {{number}, {number, arrow.BinaryTypes.StringView}},
		{{symbols}, {number}}, {{inner}, {number}}, {{arrow.BinaryTypes.StringView}, {arrow.BinaryTypes.BinaryView, text}},
	} {
		var pipes [2]pipe
		for i, columns := range x {
			rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(1, 1)), 20, columns...)
			s, err := arrowipc.NewSender(ipc.NewArena(ipc.ArenaOptions{}), rec.Schema(), &pipes[i])
			require.NoError(t, err)
			require.NoError(t, s.Send(t.Context(), rec))
			s.Close()
			rec.Release()
		}
		pipes[0].items[0].Batch, pipes[0].items[0].Dictionaries = pipes[1].items[0].Batch, nil
		_, err := arrowipc.NewReceiver(&pipes[0], arrowipc.ReadOptions{}).Receive(t.Context())
		require.ErrorIs(t, err, arrowipc.ErrMalformed, "%v as %v", x[1], x[0])
	}
}

// A batch that ends anywhere is an error.
func TestEveryLength(t *testing.T) {
	eachType(t, func(t *testing.T, data []byte) {
		for n := range data {
			if decodeHostile(t, data[:n], arrowipc.ReadOptions{}) == nil {
				// Only the padding of the last buffer is missing.
				require.Less(t, len(data)-n, 64)
			}
		}
	})
}

// No number in a message makes its receiver take much more memory than the message has.
func TestHostileBatchesTakeLittleMemory(t *testing.T) {
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	eachType(t, func(t *testing.T, data []byte) {
		for i := 0; i+4 <= len(data); i += 4 {
			old := binary.LittleEndian.Uint32(data[i:])
			for _, x := range []uint32{0x7fffffff, 0xffffffff, 1 << 20, uint32(len(data))} {
				binary.LittleEndian.PutUint32(data[i:], x)
				before := allocated()
				_ = decodeHostile(t, data, arrowipc.ReadOptions{Check: arrowipc.CheckSizes})
				require.Less(t, allocated()-before, uint64(1<<20), "with %#x at %d of %d", x, i, len(data))
			}
			binary.LittleEndian.PutUint32(data[i:], old)
		}
	})
}

// What other writers may send, and this receiver does not take: said so, and not misread.
func TestRefused(t *testing.T) {
	rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(1, 1)), 500, arrow.PrimitiveTypes.Int64, symbols)
	defer rec.Release()
	longer := func() arrow.RecordBatch {
		b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{{Name: "d", Type: symbols}}, nil))
		defer b.Release()
		for i := range 5 {
			require.NoError(t, b.Field(0).(*array.BinaryDictionaryBuilder).AppendString(fmt.Sprint(i)))
		}
		return b.NewRecordBatch()
	}()
	defer longer.Release()
	short := func() arrow.RecordBatch {
		b := array.NewRecordBuilder(memory.DefaultAllocator, longer.Schema())
		defer b.Release()
		require.NoError(t, b.Field(0).(*array.BinaryDictionaryBuilder).AppendString("0"))
		return b.NewRecordBatch()
	}()
	defer short.Release()
	for _, test := range []struct {
		name, says string
		recs       []arrow.RecordBatch
		options    []arrowlib.Option
	}{
		{"compressed", "compressed", []arrow.RecordBatch{rec}, []arrowlib.Option{arrowlib.WithLZ4()}},
		{"a dictionary that goes on", "continues", []arrow.RecordBatch{short, longer}, []arrowlib.Option{arrowlib.WithDictionaryDeltas(true)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var w bytes.Buffer
			out := arrowlib.NewWriter(&w, append(test.options, arrowlib.WithSchema(test.recs[0].Schema()))...)
			for _, r := range test.recs {
				require.NoError(t, out.Write(r))
			}
			require.NoError(t, out.Close())
			var p pipe
			_, items := split(t, w.Bytes())
			p.items = items
			r := arrowipc.NewReceiver(&p, arrowipc.ReadOptions{})
			var err error
			for err == nil {
				var got arrow.RecordBatch
				if got, err = r.Receive(t.Context()); err == nil {
					got.Release()
				}
			}
			require.ErrorIs(t, err, arrowipc.ErrMalformed)
			require.ErrorContains(t, err, test.says)
			_, again := r.Receive(t.Context())
			require.Equal(t, err, again)
		})
	}
}

// split makes items of a stream in Arrow's format, of which each has one message.
func split(t *testing.T, stream []byte) (backings []*backing, items []arrowipc.Item) {
	t.Helper()
	for r := bytes.NewReader(stream); r.Len() > 8; {
		at := len(stream) - r.Len()
		m, err := arrowlib.NewMessageReader(r).Message()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		one := memory.DefaultAllocator.Allocate(len(stream) - r.Len() - at)
		copy(one, stream[at:])
		if m.Type() == arrowlib.MessageSchema {
			items = append(items, arrowipc.Item{Schema: one})
			continue
		}
		b := &backing{bytes: one}
		backings = append(backings, b)
		if m.Type() == arrowlib.MessageDictionaryBatch {
			items = append(items, arrowipc.Item{Dictionaries: []ipc.Buffer{ipc.NewBuffer(b)}})
		} else {
			items = append(items, arrowipc.Item{Batch: ipc.NewBuffer(b)})
		}
	}
	return backings, items
}

// Streams of another writer in Arrow's format come through as they are.
func TestOtherWriters(t *testing.T) {
	for i, x := range types {
		if unwritable(x) {
			continue
		}
		rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(uint64(i), 1)), 50, x)
		defer rec.Release()
		var w bytes.Buffer
		out := arrowlib.NewWriter(&w, arrowlib.WithSchema(rec.Schema()))
		require.NoError(t, out.Write(rec))
		require.NoError(t, out.Write(rec))
		require.NoError(t, out.Close())
		backings, items := split(t, w.Bytes())
		r := arrowipc.NewReceiver(&pipe{items: items}, arrowipc.ReadOptions{Schema: rec.Schema()})
		n := 0
		for got, err := range r.All(t.Context()) {
			require.NoError(t, err, x.String())
			requireSame(t, rec, got)
			got.Release()
			n++
		}
		require.Equal(t, 2, n)
		for _, b := range backings {
			require.Equal(t, 1, b.freed, x.String())
		}
	}
}

// unwritable reports whether Arrow's own writer may fail with the type.
func unwritable(t arrow.DataType) bool {
	switch t.(type) {
	case *arrow.ListViewType, *arrow.LargeListViewType, arrow.UnionType:
		return true
	}
	return false
}

func FuzzDecode(f *testing.F) {
	for i, x := range types {
		rec := makeRecord(f, memory.DefaultAllocator, rand.New(rand.NewPCG(uint64(i), 1)), 3, x)
		f.Add(encoded(f, rec).bytes, i%2 == 0)
		rec.Release()
	}
	f.Fuzz(func(t *testing.T, data []byte, sizesOnly bool) {
		o := arrowipc.ReadOptions{}
		if sizesOnly {
			o.Check = arrowipc.CheckSizes
		}
		_ = decodeHostile(t, data, o)
	})
}
