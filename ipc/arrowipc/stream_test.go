package arrowipc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/arrowipc"
)

// encodedIn returns a batch of one column with indices into a dictionary.
func encodedIn(t *testing.T, dictionary []float64, indices ...int16) arrow.RecordBatch {
	t.Helper()
	values := array.NewFloat64Builder(memory.DefaultAllocator)
	values.AppendValues(dictionary, nil)
	places := array.NewInt16Builder(memory.DefaultAllocator)
	places.AppendValues(indices, nil)
	kind := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int16, ValueType: arrow.PrimitiveTypes.Float64}
	column := array.NewDictionaryArray(kind, places.NewArray(), values.NewArray())
	return array.NewRecordBatch(arrow.NewSchema([]arrow.Field{{Name: "d", Type: kind}}, nil), []arrow.Array{column}, int64(len(indices)))
}

// The schema crosses with the first item only, and a dictionary when it is another one.
func TestSchemaAndDictionariesCrossOnce(t *testing.T) {
	var p pipe
	one := encodedIn(t, []float64{1, 2, math.NaN()}, 0, 1, 2)
	s, err := arrowipc.NewSender(ipc.NewArena(ipc.ArenaOptions{}), one.Schema(), &p)
	require.NoError(t, err)
	defer s.Close()
	sent := []struct {
		rec          arrow.RecordBatch
		dictionaries int
	}{
		{one, 1},
		{one, 0},
		{encodedIn(t, []float64{1, 2, math.NaN()}, 2, 2), 0}, // with the same values
		{encodedIn(t, []float64{1, 2 + 1e-9, math.NaN()}, 1), 1},
		{encodedIn(t, []float64{1, 2 + 1e-9, math.NaN(), 3}, 3), 1},
		{one, 1},
		{encodedIn(t, nil), 1},
	}
	for i, x := range sent {
		require.NoError(t, s.Send(t.Context(), x.rec))
		item := p.items[i]
		require.Equal(t, i == 0, len(item.Schema) > 0, "item %d", i)
		require.Len(t, item.Dictionaries, x.dictionaries, "item %d", i)
	}
	r := arrowipc.NewReceiver(&p, arrowipc.ReadOptions{Schema: one.Schema()})
	require.Nil(t, r.Schema())
	for _, x := range sent {
		got, err := r.Receive(t.Context())
		require.NoError(t, err)
		require.True(t, array.RecordApproxEqual(x.rec, got, array.WithNaNsEqual(true), array.WithAbsTolerance(0)), "%v, not %v", got, x.rec)
		got.Release()
	}
	require.True(t, one.Schema().Equal(r.Schema()))
}

// Where a batch has more dictionaries than an item may have buffers they come before it.
func TestManyDictionaries(t *testing.T) {
	for _, n := range []int{254, 255, 256, 600} {
		columns := make([]arrow.DataType, n)
		for i := range columns {
			columns[i] = symbols
		}
		rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(1, 1)), 20, columns...)
		var p pipe
		s, err := arrowipc.NewSender(ipc.NewArena(ipc.ArenaOptions{}), rec.Schema(), &p)
		require.NoError(t, err)
		require.NoError(t, s.Send(t.Context(), rec))
		require.NoError(t, s.Send(t.Context(), rec))
		require.Len(t, p.items, n/255+2)
		r := arrowipc.NewReceiver(&p, arrowipc.ReadOptions{})
		count := 0
		for got, err := range r.All(t.Context()) {
			require.NoError(t, err)
			requireSame(t, rec, got)
			got.Release()
			count++
		}
		require.Equal(t, 2, count)
		s.Close()
		rec.Release()
	}
}

// What was not sent, after an error, is sent with the next batch.
func TestSendAgainAfterAnError(t *testing.T) {
	p := pipe{fail: errors.New("not now")}
	one, other := encodedIn(t, []float64{1, 2}, 0, 1), encodedIn(t, []float64{3, 4}, 0, 1)
	s, err := arrowipc.NewSender(ipc.NewArena(ipc.ArenaOptions{}), one.Schema(), &p)
	require.NoError(t, err)
	defer s.Close()
	for _, rec := range []arrow.RecordBatch{one, other, other} {
		require.Equal(t, p.fail, s.Send(t.Context(), rec))
		failure := p.fail
		p.fail = nil
		require.NoError(t, s.Send(t.Context(), rec))
		p.fail = failure
	}
	r := arrowipc.NewReceiver(&p, arrowipc.ReadOptions{})
	for _, rec := range []arrow.RecordBatch{one, other, other} {
		got, err := r.Receive(t.Context())
		require.NoError(t, err)
		requireSame(t, rec, got)
		got.Release()
	}
	_, err = r.Receive(t.Context())
	require.Equal(t, io.EOF, err)
}

// A schema that would arrive as another one is refused.
func TestSchemaThatCannotBeSent(t *testing.T) {
	twice := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: symbols}
	schema := arrow.NewSchema([]arrow.Field{{Name: "d", Type: twice}}, nil)
	_, err := arrowipc.NewSender(ipc.NewArena(ipc.ArenaOptions{}), schema, new(pipe))
	require.ErrorContains(t, err, "cannot be sent")
	deep := arrow.DataType(arrow.PrimitiveTypes.Int8)
	for range 100 {
		deep = arrow.ListOf(deep)
	}
	_, err = arrowipc.NewSender(ipc.NewArena(ipc.ArenaOptions{}), arrow.NewSchema([]arrow.Field{{Name: "d", Type: deep}}, nil), new(pipe))
	require.ErrorContains(t, err, "nested deeper")
}

// An array that is not what its type says is an error of its sender, which loses no memory by that.
func TestBrokenArrays(t *testing.T) {
	offsets := memory.NewBufferBytes(arrow.GetBytes([]int32{0, 5, 1 << 20}))
	data := array.NewData(arrow.ListOf(arrow.PrimitiveTypes.Int8), 2, []*memory.Buffer{nil, offsets}, []arrow.ArrayData{array.NewInt8Data(array.NewData(arrow.PrimitiveTypes.Int8, 5, []*memory.Buffer{nil, memory.NewBufferBytes(make([]byte, 5))}, nil, 0, 0)).Data()}, 0, 0)
	column := array.NewListData(data)
	rec := array.NewRecordBatch(arrow.NewSchema([]arrow.Field{{Name: "l", Type: column.DataType(), Nullable: true}}, nil), []arrow.Array{column}, 2)
	arena := ipc.NewArena(ipc.ArenaOptions{Limit: 1 << 20})
	s, err := arrowipc.NewSender(arena, rec.Schema(), new(pipe))
	require.NoError(t, err)
	for range 100 {
		require.ErrorContains(t, s.Send(t.Context(), rec), "cannot be sent")
		_, err = arrowipc.Encode(t.Context(), arena, rec)
		require.ErrorContains(t, err, "cannot be sent")
	}
}

// The buffers of dictionaries are released when they are replaced or the stream is over, and no batch
// uses them; those of an item that is wrong at once.
func TestLifeOfDictionaries(t *testing.T) {
	for _, end := range []string{"end", "close", "malformed", "second schema"} {
		t.Run(end, func(t *testing.T) {
			var p pipe
			recs := []arrow.RecordBatch{encodedIn(t, []float64{1, 2}, 0, 1), encodedIn(t, []float64{3, 4}, 0, 1)}
			s, err := arrowipc.NewSender(ipc.NewArena(ipc.ArenaOptions{}), recs[0].Schema(), &p)
			require.NoError(t, err)
			defer s.Close()
			for _, rec := range append(recs, recs[0]) {
				require.NoError(t, s.Send(t.Context(), rec))
			}
			var dictionaries, batches []*backing
			for i := range p.items {
				d, b := own(&p.items[i].Dictionaries[0]), own(&p.items[i].Batch)
				dictionaries, batches = append(dictionaries, d), append(batches, b)
			}
			schema := p.items[0].Schema
			r := arrowipc.NewReceiver(&p, arrowipc.ReadOptions{})
			first, err := r.Receive(t.Context())
			require.NoError(t, err)
			second, err := r.Receive(t.Context())
			require.NoError(t, err)
			require.Zero(t, dictionaries[0].freed, "the first batch uses it")
			first.Release()
			require.Equal(t, 1, dictionaries[0].freed)
			require.Equal(t, 1, batches[0].freed)
			switch end {
			case "end":
				p.items = nil
				_, err = r.Receive(t.Context())
				require.Equal(t, io.EOF, err)
			case "close":
				r.Close()
			case "malformed":
				copy(batches[2].bytes, "nonsense")
				_, err = r.Receive(t.Context())
				require.ErrorIs(t, err, arrowipc.ErrMalformed)
				require.Equal(t, 1, batches[2].freed)
				require.Equal(t, 1, dictionaries[2].freed)
			case "second schema":
				p.items[0].Schema = schema
				_, err = r.Receive(t.Context())
				require.ErrorIs(t, err, arrowipc.ErrMalformed)
				require.Equal(t, 1, batches[2].freed)
				require.Equal(t, 1, dictionaries[2].freed)
			}
			require.Zero(t, dictionaries[1].freed)
			requireSame(t, recs[1], second)
			second.Release()
			require.Equal(t, 1, dictionaries[1].freed)
			require.Equal(t, 1, batches[1].freed)
		})
	}
}

// own replaces a buffer by one whose memory says when it was freed.
func own(b *ipc.Buffer) *backing {
	mem := memory.DefaultAllocator.Allocate(b.Len())
	copy(mem, b.Bytes())
	b.Release()
	m := &backing{bytes: mem}
	*b = ipc.NewBuffer(m)
	return m
}

// A sender waits for memory while its receiver holds all of the arena, and what a receiver holds is
// never more than that.
func TestSenderWaitsForMemory(t *testing.T) {
	const limit, rows = 4 << 20, 8 << 10
	arena := ipc.NewArena(ipc.ArenaOptions{Limit: limit})
	var all []ipc.Buffer
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for b, err := arena.Alloc(gone, 1<<20); err == nil; b, err = arena.Alloc(gone, 1<<20) {
		if all = append(all, b); len(all) > limit>>20 {
			t.Skip("this arena has no limit")
		}
	}
	for _, b := range all {
		b.Release()
	}

	p := &channel{items: make(chan arrowipc.Item, 1000)}
	s, err := arrowipc.NewSender(arena, numbers, p)
	require.NoError(t, err)
	defer s.Close()
	const batches = 200
	done := make(chan error, 1)
	go func() {
		defer close(p.items)
		for i := range batches {
			rec := makeNumbers(i*rows, rows)
			if err := s.Send(t.Context(), rec); err != nil {
				done <- fmt.Errorf("batch %d: %w", i, err)
				return
			}
			rec.Release()
		}
		done <- nil
	}()
	r := arrowipc.NewReceiver(p, arrowipc.ReadOptions{})
	var held []arrow.RecordBatch
	total, received := int64(0), 0
	for received < batches {
		rec, err := r.Receive(t.Context())
		require.NoError(t, err)
		held = append(held, rec)
		received++
		if len(held)*8*rows >= limit/4 || received == batches { // the sender may wait by now
			for _, rec := range held {
				total += add(rec)
				p.inUse.Add(-8 * rows)
				rec.Release()
			}
			held = nil
		}
	}
	require.NoError(t, <-done)
	require.LessOrEqual(t, p.most.Load(), int64(limit))
	require.Equal(t, int64(batches*rows)*(batches*rows-1)/2, total)
}

// channel is a stream within this process that waits for items. It knows how many bytes of batches are
// in use, and were at most.
type channel struct {
	items       chan arrowipc.Item
	inUse, most atomic.Int64
}

func (c *channel) Send(_ context.Context, item arrowipc.Item) error {
	item.Batch = item.Batch.Retain()
	c.most.Store(max(c.most.Load(), c.inUse.Add(int64(item.Batch.Len())&^4095)))
	c.items <- item
	return nil
}

func (c *channel) Receive(context.Context) (arrowipc.Item, error) {
	item, ok := <-c.items
	if !ok {
		return item, io.EOF
	}
	return item, nil
}
