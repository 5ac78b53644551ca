package arrowipc_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	arrowlib "github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/arrowipc"
)

func requireSame(t require.TestingT, want, got arrow.RecordBatch) {
	require.True(t, want.Schema().Equal(got.Schema()), "%v, not %v", got.Schema(), want.Schema())
	require.Equal(t, want.NumRows(), got.NumRows())
	for i, c := range want.Columns() {
		require.True(t, array.Equal(c, got.Column(i)), "column %d of %v: %v, not %v", i, c.DataType(), got.Column(i), c)
	}
}

// encodeAndDecode returns the batch as its receiver sees it, and its buffer.
func encodeAndDecode(t require.TestingT, a *ipc.Arena, rec arrow.RecordBatch, o arrowipc.ReadOptions) (arrow.RecordBatch, ipc.Buffer) {
	b, err := arrowipc.Encode(context.Background(), a, rec)
	require.NoError(t, err)
	got, err := arrowipc.Decode(b, o)
	require.NoError(t, err)
	return got, b
}

// Every type comes through as it is, however many rows there are, and as a slice; and what is in the
// buffer is what Arrow's own reader of streams reads.
func TestAllTypes(t *testing.T) {
	a := ipc.NewArena(ipc.ArenaOptions{})
	for _, x := range types {
		t.Run(x.String(), func(t *testing.T) {
			for _, n := range []int{0, 1, 2, 9, 64, 200} {
				r := rand.New(rand.NewPCG(uint64(n), 1))
				rec := makeRecord(t, memory.DefaultAllocator, r, n, x)
				defer rec.Release()
				for _, cut := range [][2]int{{0, n}, {0, n / 2}, {n / 2, n}, {n / 3, n / 2}, {n, n}} {
					part := rec.NewSlice(int64(cut[0]), int64(cut[1]))
					for _, check := range []arrowipc.Check{arrowipc.CheckValues, arrowipc.CheckSizes} {
						got, b := encodeAndDecode(t, a, part, arrowipc.ReadOptions{Check: check, Schema: rec.Schema()})
						requireSame(t, part, got)
						if check == arrowipc.CheckValues {
							requireArrowReads(t, part, b)
						}
						got.Release()
						b.Release()
					}
					part.Release()
				}
			}
		})
	}
}

func requireArrowReads(t *testing.T, want arrow.RecordBatch, b ipc.Buffer) {
	t.Helper()
	r, err := arrowlib.NewReader(bytes.NewReader(b.Bytes()))
	require.NoError(t, err)
	defer r.Release()
	got, err := r.Read()
	require.NoError(t, err)
	requireSame(t, want, got)
	_, err = r.Read()
	require.Equal(t, io.EOF, err)
}

// Batches of any columns, of any slice, come through as they are: by themselves, and as items.
func TestRoundTripProperty(t *testing.T) {
	a := ipc.NewArena(ipc.ArenaOptions{})
	rapid.Check(t, func(rt *rapid.T) {
		columns := rapid.SliceOfN(rapid.SampledFrom(types), 0, 6).Draw(rt, "types")
		var recs []arrow.RecordBatch
		seed := rapid.Uint64().Draw(rt, "seed")
		for i := range rapid.IntRange(1, 4).Draw(rt, "batches") {
			n := rapid.IntRange(0, 70).Draw(rt, "rows")
			rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(seed, uint64(i))), n, columns...)
			from := rapid.IntRange(0, n).Draw(rt, "from")
			recs = append(recs, rec.NewSlice(int64(from), int64(rapid.IntRange(from, n).Draw(rt, "to"))))
			rec.Release()
		}
		var p pipe
		s, err := arrowipc.NewSender(a, recs[0].Schema(), &p)
		require.NoError(rt, err)
		defer s.Close()
		for _, rec := range recs {
			got, b := encodeAndDecode(rt, a, rec, arrowipc.ReadOptions{})
			requireSame(rt, rec, got)
			got.Release()
			b.Release()
			require.NoError(rt, s.Send(t.Context(), rec))
		}
		r := arrowipc.NewReceiver(&p, arrowipc.ReadOptions{})
		var got []arrow.RecordBatch
		for rec, err := range r.All(t.Context()) {
			require.NoError(rt, err)
			got = append(got, rec)
		}
		require.Len(rt, got, len(recs))
		for i, rec := range recs { // after the end of the stream: dictionaries are still there
			requireSame(rt, rec, got[i])
			got[i].Release()
			rec.Release()
		}
	})
}

// pipe is a stream within this process.
type pipe struct {
	items []arrowipc.Item
	fail  error // what Send returns
}

func (p *pipe) Send(_ context.Context, item arrowipc.Item) error {
	if p.fail != nil {
		return p.fail
	}
	item.Dictionaries = append([]ipc.Buffer(nil), item.Dictionaries...)
	for i, b := range item.Dictionaries {
		item.Dictionaries[i] = b.Retain()
	}
	if !item.Batch.IsZero() {
		item.Batch = item.Batch.Retain()
	}
	p.items = append(p.items, item)
	return nil
}

func (p *pipe) Receive(context.Context) (item arrowipc.Item, err error) {
	if len(p.items) == 0 {
		return item, io.EOF
	}
	item, p.items = p.items[0], p.items[1:]
	return item, nil
}

// Metadata of the batch comes through, and a batch of no columns with its rows.
func TestMetadataOfBatch(t *testing.T) {
	a := ipc.NewArena(ipc.ArenaOptions{})
	meta := arrow.NewMetadata([]string{"k", "l"}, []string{"v", ""})
	schema := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.Null, Nullable: true}}, nil)
	column := array.NewNull(7)
	defer column.Release()
	rec := array.NewRecordBatchWithMetadata(schema, []arrow.Array{column}, 7, meta)
	defer rec.Release()
	got, b := encodeAndDecode(t, a, rec, arrowipc.ReadOptions{})
	defer b.Release()
	defer got.Release()
	require.EqualValues(t, 7, got.NumRows())
	require.True(t, meta.Equal(got.(arrow.RecordBatchWithMetadata).Metadata()))
	require.Contains(t, fmt.Sprint(got.Schema()), "null")
}

// The schema of the batch that came last is kept, but not which types were registered then.
func TestExtensionTypesAreLookedUpEachTime(t *testing.T) {
	rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(1, 1)), 9, degrees)
	defer rec.Release()
	b := ipc.NewBuffer(encoded(t, rec))
	defer b.Release()
	decode := func() arrow.DataType {
		got, err := arrowipc.Decode(b, arrowipc.ReadOptions{})
		require.NoError(t, err)
		defer got.Release()
		return got.Schema().Field(0).Type
	}
	require.Equal(t, arrow.DataType(degrees), decode())
	require.NoError(t, arrow.UnregisterExtensionType(degrees.ExtensionName()))
	defer func() { require.NoError(t, arrow.RegisterExtensionType(degrees)) }()
	require.Equal(t, degrees.Storage, decode())
}
