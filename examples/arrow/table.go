package main

import (
	"math/rand/v2"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// symbols are what is traded.
var symbols = [...]string{"AAAA", "BBBB", "CCCC", "DDDD", "EEEE", "FFFF", "GGGG", "HHHH", "IIII", "JJJJ", "KKKK", "LLLL"}

func indexOf(symbol string) int { return slices.Index(symbols[:], symbol) }

// schema is that of the trades.
var schema = arrow.NewSchema([]arrow.Field{
	{Name: "time", Type: arrow.FixedWidthTypes.Timestamp_ns},
	{Name: "symbol", Type: &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Uint8, ValueType: arrow.BinaryTypes.String}},
	{Name: "price", Type: arrow.PrimitiveTypes.Float64},
	{Name: "size", Type: arrow.PrimitiveTypes.Int32},
}, nil)

// A batch has so many rows, of so many bytes.
const (
	batchRows  = 48 << 10
	batchBytes = batchRows * (8 + 1 + 8 + 4)
)

// table is one that nobody has in memory: its batches are made when they are needed.
type table struct{ batches int }

func (t table) bytes() int64 { return int64(t.batches) * batchBytes }

// maker makes batches, all in the same memory: a batch is what it is until the next one is made.
type maker struct {
	times  []arrow.Timestamp
	which  []uint8
	prices []float64
	sizes  []int32
	names  arrow.Array
}

func newMaker() *maker {
	names := array.NewStringBuilder(memory.DefaultAllocator)
	defer names.Release()
	names.AppendValues(symbols[:], nil)
	return &maker{make([]arrow.Timestamp, batchRows), make([]uint8, batchRows), make([]float64, batchRows), make([]int32, batchRows), names.NewArray()}
}

func (m *maker) close() { m.names.Release() }

// batch returns batch i of the table. It is always the same.
func (m *maker) batch(i int) arrow.RecordBatch {
	random := rand.NewPCG(uint64(i), 1)
	for row := range batchRows {
		x := random.Uint64()
		m.times[row] = arrow.Timestamp(i*batchRows+row) * 1000
		m.which[row] = uint8(x % uint64(len(symbols)))
		m.prices[row] = 10 + float64(x>>8%4096)/4 // sums of which are exact
		m.sizes[row] = int32(x >> 32 % 1000)
	}
	column := func(t arrow.DataType, data []byte) *array.Data {
		return array.NewData(t, batchRows, []*memory.Buffer{nil, memory.NewBufferBytes(data)}, nil, 0, 0)
	}
	parts := []*array.Data{
		column(schema.Field(0).Type, arrow.GetBytes(m.times)),
		column(schema.Field(1).Type, arrow.GetBytes(m.which)),
		column(schema.Field(2).Type, arrow.GetBytes(m.prices)),
		column(schema.Field(3).Type, arrow.GetBytes(m.sizes)),
	}
	parts[1].SetDictionary(m.names.Data())
	columns := make([]arrow.Array, len(parts))
	for i, p := range parts {
		columns[i] = array.MakeFromData(p)
		defer p.Release()
		defer columns[i].Release()
	}
	return array.NewRecordBatch(schema, columns, batchRows)
}
