package arrowipc_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/decimal256"
	"github.com/apache/arrow-go/v18/arrow/float16"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
)

var (
	degrees = &celsius{arrow.ExtensionBase{Storage: arrow.PrimitiveTypes.Float32}}
	symbols = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int16, ValueType: arrow.BinaryTypes.String}
	inner   = arrow.StructOf(
		arrow.Field{Name: "x", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		arrow.Field{Name: "s", Type: arrow.BinaryTypes.String, Nullable: true},
		arrow.Field{Name: "d", Type: symbols, Nullable: true},
	)
	choice = []arrow.Field{{Name: "i", Type: arrow.PrimitiveTypes.Int32, Nullable: true}, {Name: "s", Type: arrow.BinaryTypes.String, Nullable: true}}
)

// celsius is a type that Arrow does not know.
type celsius struct{ arrow.ExtensionBase }

func init() {
	if err := arrow.RegisterExtensionType(degrees); err != nil {
		panic(err)
	}
}

func (*celsius) ArrayType() reflect.Type { return reflect.TypeFor[temperatures]() }
func (*celsius) ExtensionName() string   { return "test.celsius" }
func (*celsius) Serialize() string       { return "C" }
func (*celsius) Deserialize(storage arrow.DataType, data string) (arrow.ExtensionType, error) {
	if data != "C" || !arrow.TypeEqual(storage, degrees.Storage) {
		return nil, fmt.Errorf("%v and %q are no temperatures", storage, data)
	}
	return degrees, nil
}
func (*celsius) ExtensionEquals(other arrow.ExtensionType) bool {
	return other.ExtensionName() == "test.celsius"
}

// temperatures are an array of celsius.
type temperatures struct{ array.ExtensionArrayBase }

// types are all types that Arrow for Go has, and some in each other.
var types = []arrow.DataType{
	arrow.Null, arrow.FixedWidthTypes.Boolean,
	arrow.PrimitiveTypes.Int8, arrow.PrimitiveTypes.Int16, arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Int64,
	arrow.PrimitiveTypes.Uint8, arrow.PrimitiveTypes.Uint16, arrow.PrimitiveTypes.Uint32, arrow.PrimitiveTypes.Uint64,
	arrow.FixedWidthTypes.Float16, arrow.PrimitiveTypes.Float32, arrow.PrimitiveTypes.Float64,
	&arrow.Decimal32Type{Precision: 9, Scale: 2}, &arrow.Decimal64Type{Precision: 18, Scale: 2},
	&arrow.Decimal128Type{Precision: 38, Scale: 2}, &arrow.Decimal256Type{Precision: 76, Scale: 2},
	arrow.FixedWidthTypes.Date32, arrow.FixedWidthTypes.Date64,
	arrow.FixedWidthTypes.Time32s, arrow.FixedWidthTypes.Time32ms, arrow.FixedWidthTypes.Time64us, arrow.FixedWidthTypes.Time64ns,
	arrow.FixedWidthTypes.Timestamp_s, arrow.FixedWidthTypes.Timestamp_ns, &arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "Europe/Berlin"},
	arrow.FixedWidthTypes.Duration_ms, arrow.FixedWidthTypes.MonthInterval, arrow.FixedWidthTypes.DayTimeInterval, arrow.FixedWidthTypes.MonthDayNanoInterval,
	arrow.BinaryTypes.Binary, arrow.BinaryTypes.String, arrow.BinaryTypes.LargeBinary, arrow.BinaryTypes.LargeString,
	arrow.BinaryTypes.BinaryView, arrow.BinaryTypes.StringView, &arrow.FixedSizeBinaryType{ByteWidth: 5},
	symbols,
	&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Uint8, ValueType: arrow.PrimitiveTypes.Int64},
	&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.PrimitiveTypes.Float64, Ordered: true},
	inner, degrees, arrow.ListOf(degrees),
	arrow.ListOf(arrow.PrimitiveTypes.Int32), arrow.LargeListOf(arrow.BinaryTypes.String),
	arrow.ListViewOf(arrow.PrimitiveTypes.Int32), arrow.LargeListViewOf(arrow.BinaryTypes.String),
	arrow.FixedSizeListOf(3, arrow.PrimitiveTypes.Int16),
	arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int64),
	arrow.RunEndEncodedOf(arrow.PrimitiveTypes.Int32, arrow.BinaryTypes.String),
	arrow.SparseUnionOf(choice, []arrow.UnionTypeCode{0, 1}), arrow.DenseUnionOf(choice, []arrow.UnionTypeCode{5, 9}),
	arrow.ListOf(inner), arrow.ListOf(arrow.ListOf(arrow.BinaryTypes.String)), arrow.ListOf(symbols),
	arrow.FixedSizeListOf(2, inner), arrow.MapOf(arrow.BinaryTypes.String, inner),
	arrow.StructOf(arrow.Field{Name: "l", Type: arrow.LargeListOf(arrow.ListOf(inner)), Nullable: true}),
}

// makeRecord returns a batch of n rows of all the types.
func makeRecord(t testing.TB, mem memory.Allocator, r *rand.Rand, n int, types ...arrow.DataType) arrow.RecordBatch {
	t.Helper()
	fields := make([]arrow.Field, len(types))
	for i, x := range types {
		fields[i] = arrow.Field{Name: fmt.Sprintf("c%d", i), Type: x, Nullable: true}
	}
	meta := arrow.NewMetadata([]string{"origin"}, []string{"test"})
	b := array.NewRecordBuilder(mem, arrow.NewSchema(fields, &meta))
	defer b.Release()
	for _, column := range b.Fields() {
		for range n {
			appendRandom(t, column, r)
		}
	}
	rec := b.NewRecordBatch()
	return rec
}

func text(r *rand.Rand) string {
	const all = "the quick brown fox jümps over the lazy dog, and then some"
	return all[:[]int{0, 1, 5, 12, 15, 40, len(all)}[r.IntN(7)]]
}

// appendRandom appends a value, or sometimes none.
func appendRandom(t testing.TB, b array.Builder, r *rand.Rand) {
	t.Helper()
	_, isUnion := b.(array.UnionBuilder)
	_, isRuns := b.(*array.RunEndEncodedBuilder)
	if !isUnion && !isRuns && r.IntN(5) == 0 {
		b.AppendNull()
		return
	}
	x := r.Uint64()
	switch b := b.(type) {
	case *array.NullBuilder:
		b.AppendNull()
	case *array.BooleanBuilder:
		b.Append(x%2 == 0)
	case *array.Int8Builder:
		b.Append(int8(x))
	case *array.Int16Builder:
		b.Append(int16(x))
	case *array.Int32Builder:
		b.Append(int32(x))
	case *array.Int64Builder:
		b.Append(int64(x))
	case *array.Uint8Builder:
		b.Append(uint8(x))
	case *array.Uint16Builder:
		b.Append(uint16(x))
	case *array.Uint32Builder:
		b.Append(uint32(x))
	case *array.Uint64Builder:
		b.Append(x)
	case *array.Float16Builder:
		b.Append(float16.New(r.Float32()))
	case *array.Float32Builder:
		b.Append(r.Float32())
	case *array.Float64Builder:
		b.Append(r.Float64())
	case *array.Decimal32Builder:
		b.Append(decimal.Decimal32(x % 1000))
	case *array.Decimal64Builder:
		b.Append(decimal.Decimal64(x % 100000))
	case *array.Decimal128Builder:
		b.Append(decimal128.New(int64(x%1000), x))
	case *array.Decimal256Builder:
		b.Append(decimal256.New(x%1000, x, x, x))
	case *array.Date32Builder:
		b.Append(arrow.Date32(x % 50000))
	case *array.Date64Builder:
		b.Append(arrow.Date64(x % 50000 * 86400000))
	case *array.Time32Builder:
		b.Append(arrow.Time32(x % 86400))
	case *array.Time64Builder:
		b.Append(arrow.Time64(x % 86400000000))
	case *array.TimestampBuilder:
		b.Append(arrow.Timestamp(x % 2000000000))
	case *array.DurationBuilder:
		b.Append(arrow.Duration(x))
	case *array.MonthIntervalBuilder:
		b.Append(arrow.MonthInterval(x))
	case *array.DayTimeIntervalBuilder:
		b.Append(arrow.DayTimeInterval{Days: int32(x), Milliseconds: int32(x >> 32)})
	case *array.MonthDayNanoIntervalBuilder:
		b.Append(arrow.MonthDayNanoInterval{Months: int32(x), Days: int32(x >> 32), Nanoseconds: int64(x)})
	case *array.BinaryBuilder:
		b.Append([]byte(text(r)))
	case array.StringLikeBuilder:
		b.Append(text(r))
	case *array.BinaryViewBuilder:
		b.Append([]byte(text(r)))
	case *array.FixedSizeBinaryBuilder:
		b.Append([]byte("12345"))
	case *array.BinaryDictionaryBuilder:
		require.NoError(t, b.AppendString(text(r)))
	case *array.Int64DictionaryBuilder:
		require.NoError(t, b.Append(int64(x%100)))
	case *array.Float64DictionaryBuilder:
		require.NoError(t, b.Append(float64(x%100)))
	case *array.ExtensionBuilder:
		appendRandom(t, b.StorageBuilder(), r)
	case *array.StructBuilder:
		b.Append(true)
		for i := range b.NumField() {
			appendRandom(t, b.FieldBuilder(i), r)
		}
	case *array.MapBuilder:
		b.Append(true)
		for i := range x % 4 {
			b.KeyBuilder().(*array.StringBuilder).Append(fmt.Sprint(i, text(r)))
			appendRandom(t, b.ItemBuilder(), r)
		}
	case *array.FixedSizeListBuilder:
		b.Append(true)
		for range b.Type().(*arrow.FixedSizeListType).Len() {
			appendRandom(t, b.ValueBuilder(), r)
		}
	case array.VarLenListLikeBuilder:
		n := int(x % 4)
		b.AppendWithSize(true, n)
		for range n {
			appendRandom(t, b.ValueBuilder(), r)
		}
	case *array.RunEndEncodedBuilder:
		b.Append(1)
		appendRandom(t, b.ValueBuilder(), r)
	case array.UnionBuilder:
		codes := b.Type().(arrow.UnionType).TypeCodes()
		which := int(x % uint64(len(codes)))
		b.Append(codes[which])
		appendRandom(t, b.Child(which), r)
		if b.Mode() == arrow.SparseMode {
			b.Child(1 - which).AppendEmptyValue()
		}
	default:
		t.Fatalf("no values of %v", b.Type())
	}
}

// numbers is the schema of batches of numbers.
var numbers = arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int64}}, nil)

// makeNumbers returns a batch with n numbers from first on.
func makeNumbers(first, n int) arrow.RecordBatch {
	b := array.NewRecordBuilder(memory.DefaultAllocator, numbers)
	defer b.Release()
	for i := range n {
		b.Field(0).(*array.Int64Builder).Append(int64(first + i))
	}
	return b.NewRecordBatch()
}

func add(rec arrow.RecordBatch) (sum int64) {
	for _, x := range rec.Column(0).(*array.Int64).Int64Values() {
		sum += x
	}
	return sum
}
