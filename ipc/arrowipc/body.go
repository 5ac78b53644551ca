package arrowipc

import (
	"encoding/binary"
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// body is the arrays of a message, as they will lie in a buffer: those rows that are sent, and of
// what rows refer to no more than they need.
type body struct {
	nodes    []node
	parts    []part
	variadic []int
	size     int // in bytes
}

// part is a buffer of the body: size bytes at a multiple of 8, which are data, or what fill puts into
// memory that holds anything.
type part struct {
	at, size int
	data     []byte
	fill     func(dst []byte)
}

func (b *body) reset() { *b = body{b.nodes[:0], b.parts[:0], b.variadic[:0], 0} }

func (b *body) bytes(data []byte) { b.add(part{size: len(data), data: data}) }

func (b *body) add(p part) {
	p.at = b.size
	b.parts = append(b.parts, p)
	b.size += align(p.size)
}

// bits adds n bits from index from on.
func (b *body) bits(data []byte, from, n int) {
	size := int(bitutil.BytesForBits(int64(n)))
	if from%8 == 0 && n%8 == 0 {
		b.bytes(data[from/8:][:size])
		return
	}
	b.add(part{size: size, fill: func(dst []byte) {
		dst[size-1] = 0
		bitutil.CopyBitmap(data, from, n, dst, 0)
	}})
}

// offsets adds numbers that become less by shift.
func offsets[T int32 | int64](b *body, list []T, shift T) {
	if shift == 0 {
		b.bytes(arrow.GetBytes(list))
		return
	}
	b.add(part{size: len(arrow.GetBytes(list)), fill: func(dst []byte) {
		out := arrow.GetData[T](dst)
		for i, x := range list {
			out[i] = x - shift
		}
	}})
}

// valuesOf returns n values of a buffer from index from on.
func valuesOf[T int8 | int16 | int32 | int64](data *memory.Buffer, from, n int) []T {
	return arrow.GetData[T](data.Bytes())[from:][:n]
}

// array adds n elements of an array, from index from of its buffers on, and throws what is no array.
func (b *body) array(d arrow.ArrayData, from, n int) {
	t := d.DataType()
	if e, ok := t.(arrow.ExtensionType); ok {
		t = e.StorageType()
	}
	if e, ok := t.(*arrow.DictionaryType); ok {
		t = e.IndexType
	}
	buffers, children := d.Buffers(), d.Children()
	switch t := t.(type) {
	case *arrow.NullType:
		b.nodes = append(b.nodes, node{n, n})
		return
	case *arrow.RunEndEncodedType:
		b.nodes = append(b.nodes, node{n, 0})
		b.runs(children[0], children[1], from, n)
		return
	case arrow.UnionType:
		b.nodes = append(b.nodes, node{n, 0})
		b.union(t, d, from, n)
		return
	}
	b.validity(d, from, n)
	switch t := t.(type) {
	case *arrow.BooleanType:
		if n == 0 {
			b.bytes(nil)
			return
		}
		b.bits(buffers[1].Bytes(), from, n)
	case *arrow.BinaryType, *arrow.StringType:
		first, last := list[int32](b, buffers[1], from, n)
		b.some(buffers[2], first, last)
	case *arrow.LargeBinaryType, *arrow.LargeStringType:
		first, last := list[int64](b, buffers[1], from, n)
		b.some(buffers[2], first, last)
	case arrow.BinaryViewDataType:
		b.some(buffers[1], from*arrow.ViewHeaderSizeBytes, (from+n)*arrow.ViewHeaderSizeBytes)
		b.variadic = append(b.variadic, len(buffers)-2)
		for _, x := range buffers[2:] {
			b.some(x, 0, x.Len())
		}
	case *arrow.ListType, *arrow.MapType:
		first, last := list[int32](b, buffers[1], from, n)
		b.child(children[0], first, last-first)
	case *arrow.LargeListType:
		first, last := list[int64](b, buffers[1], from, n)
		b.child(children[0], first, last-first)
	case *arrow.ListViewType:
		first, last := views[int32](b, buffers, from, n)
		b.child(children[0], first, last-first)
	case *arrow.LargeListViewType:
		first, last := views[int64](b, buffers, from, n)
		b.child(children[0], first, last-first)
	case *arrow.FixedSizeListType:
		k := int(t.Len())
		b.child(children[0], from*k, n*k)
	case *arrow.StructType:
		for _, c := range children {
			b.child(c, from, n)
		}
	case arrow.FixedWidthDataType:
		width := t.BitWidth() / 8
		b.some(buffers[1], from*width, (from+n)*width)
	default:
		broken("arrays of %v cannot be sent", t)
	}
}

// child adds n elements of an array that is a part of another, from element from on.
func (b *body) child(d arrow.ArrayData, from, n int) {
	if from < 0 || n < 0 || from > d.Len() || n > d.Len()-from {
		broken("elements %d to %d of an array of %d", from, from+n, d.Len())
	}
	b.array(d, d.Offset()+from, n)
}

// some adds bytes of a buffer, which may be nil if there are none.
func (b *body) some(data *memory.Buffer, from, to int) {
	if from == to {
		b.bytes(nil)
		return
	}
	b.bytes(data.Bytes()[from:to])
}

// validity adds the node of an array, and the buffer that says which elements there are.
func (b *body) validity(d arrow.ArrayData, from, n int) {
	var valid []byte
	if x := d.Buffers()[0]; x != nil && d.NullN() != 0 {
		valid = x.Bytes()
	}
	nulls := 0
	if len(valid) > 0 {
		nulls = n - bitutil.CountSetBits(valid, from, n)
	}
	b.nodes = append(b.nodes, node{n, nulls})
	if nulls == 0 {
		b.bytes(nil)
		return
	}
	b.bits(valid, from, n)
}

// list adds the offsets of n lists, so that the first begins at 0, and returns where their elements are.
func list[T int32 | int64](b *body, data *memory.Buffer, from, n int) (first, last int) {
	if n == 0 {
		b.bytes(nil)
		return 0, 0
	}
	all := arrow.GetData[T](data.Bytes())[from:][:n+1]
	offsets(b, all, all[0])
	return int(all[0]), int(all[n])
}

// views adds the offsets and sizes of n lists, and returns where their elements are.
func views[T int32 | int64](b *body, buffers []*memory.Buffer, from, n int) (first, last int) {
	if n == 0 {
		b.bytes(nil)
		b.bytes(nil)
		return 0, 0
	}
	starts, sizes := arrow.GetData[T](buffers[1].Bytes())[from:][:n], arrow.GetData[T](buffers[2].Bytes())[from:][:n]
	first = math.MaxInt
	for i, size := range sizes {
		if size > 0 {
			first, last = min(first, int(starts[i])), max(last, int(starts[i])+int(size))
		}
	}
	first = min(first, last)
	b.add(part{size: len(arrow.GetBytes(starts)), fill: func(dst []byte) {
		out := arrow.GetData[T](dst)
		for i, size := range sizes {
			if out[i] = 0; size > 0 {
				out[i] = starts[i] - T(first)
			}
		}
	}})
	b.bytes(arrow.GetBytes(sizes))
	return first, last
}

// union adds what follows the node of a union.
func (b *body) union(t arrow.UnionType, d arrow.ArrayData, from, n int) {
	buffers, children := d.Buffers(), d.Children()
	b.some(buffers[1], from, from+n)
	if t.Mode() == arrow.SparseMode {
		for _, c := range children {
			b.child(c, from, n)
		}
		return
	}
	var codes []int8
	var places []int32
	if n > 0 {
		codes, places = valuesOf[int8](buffers[1], from, n), valuesOf[int32](buffers[2], from, n)
	}
	first, last := make([]int32, len(children)), make([]int32, len(children))
	for i := range first {
		first[i] = math.MaxInt32
	}
	ids := t.ChildIDs()
	for i, code := range codes {
		child := ids[code]
		first[child], last[child] = min(first[child], places[i]), max(last[child], places[i]+1)
	}
	b.add(part{size: 4 * n, fill: func(dst []byte) {
		out := arrow.GetData[int32](dst)
		for i, code := range codes {
			out[i] = places[i] - first[ids[code]]
		}
	}})
	for i, c := range children {
		first[i] = min(first[i], last[i])
		b.child(c, int(first[i]), int(last[i]-first[i]))
	}
}

// runs adds the children of an array of runs, of which it has n elements from index from on.
func (b *body) runs(ends, elements arrow.ArrayData, from, n int) {
	at := func(i int) int {
		data := ends.Buffers()[1].Bytes()
		switch i += ends.Offset(); ends.DataType().ID() {
		case arrow.INT16:
			return int(int16(binary.NativeEndian.Uint16(data[2*i:])))
		case arrow.INT32:
			return int(int32(binary.NativeEndian.Uint32(data[4*i:])))
		}
		return int(int64(binary.NativeEndian.Uint64(data[8*i:])))
	}
	first := 0
	for n > 0 && at(first) <= from {
		first++
	}
	last := first
	for n > 0 {
		last++
		if at(last-1) >= from+n {
			break
		}
	}
	width := ends.DataType().(arrow.FixedWidthDataType).BitWidth() / 8
	b.nodes = append(b.nodes, node{last - first, 0})
	b.bytes(nil)
	b.add(part{size: width * (last - first), fill: func(dst []byte) {
		for i := first; i < last; i++ {
			end := min(at(i)-from, n)
			switch out := dst[width*(i-first):]; width {
			case 2:
				binary.NativeEndian.PutUint16(out, uint16(end))
			case 4:
				binary.NativeEndian.PutUint32(out, uint32(end))
			default:
				binary.NativeEndian.PutUint64(out, uint64(end))
			}
		}
	}})
	b.child(elements, first, last-first)
}

// put puts the body into dst, which has its size.
func (b *body) put(dst []byte) {
	for i := range b.parts {
		p := &b.parts[i]
		end := p.at + p.size
		p.put(dst[p.at:end:end])
		clear(dst[end : p.at+align(p.size)])
	}
}

// put puts the part into dst, which has its size.
func (p *part) put(dst []byte) {
	if p.fill != nil {
		p.fill(dst)
	} else {
		copy(dst, p.data)
	}
}
