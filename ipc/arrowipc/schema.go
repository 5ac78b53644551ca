package arrowipc

import (
	"bytes"
	"fmt"
	"slices"
	"sync/atomic"

	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/apache/arrow-go/v18/arrow"
	arrowlib "github.com/apache/arrow-go/v18/arrow/ipc"
)

// maxNesting is how deeply types may be nested, as with Arrow's own reader and writer.
const maxNesting = 64

// shape is a field of a schema as the metadata has it: which dictionary it is encoded with, if any.
type shape struct {
	encoded  bool
	id       int64
	any      bool // it, or a part of it, is encoded
	children []shape
}

// timestamp and union are types of fields, as the metadata has them.
const (
	timestampKind = 10
	unionKind     = 14
)

// parsed is a schema that has come. Nobody changes it.
type parsed struct {
	meta   []byte // what it was made of
	schema *arrow.Schema
	shapes []shape
	values map[int64]values // of all dictionaries, by their numbers
}

// lastParsed is the schema that has come last, as the next one is often the same: a batch by itself has
// its schema with it each time.
var lastParsed atomic.Pointer[parsed]

// maxKept is the most bytes of metadata of a schema that is kept.
const maxKept = 64 << 10

// parseSchema reads a message that is a schema, whose metadata was parsed into m.
func parseSchema(m *message, meta []byte) (*parsed, error) {
	if p := lastParsed.Load(); p != nil && bytes.Equal(p.meta, meta) {
		return p, nil
	}
	b := newBudget(meta)
	b.pairs(&m.header, schemaCustom)
	p := &parsed{meta: meta, shapes: b.shapes(&m.header, schemaFields, 0), values: make(map[int64]values)}
	// Arrow's reader wants a message as it is in a stream.
	r, err := arrowlib.NewReader(bytes.NewReader(append(appendPrefix(nil, len(meta)), meta...)), arrowlib.WithEnsureNativeEndian(false))
	if err != nil {
		return nil, fmt.Errorf("%w: schema: %w", ErrMalformed, err)
	}
	defer r.Release()
	p.schema = r.Schema()
	if !p.schema.IsNativeEndian() {
		broken("bytes in another order")
	}
	for i, f := range p.schema.Fields() {
		checkType(f.Type)
		addDictionaries(p.values, f.Type, &p.shapes[i])
	}
	// What an extension type is depends on what is registered when it is read.
	if len(meta) <= maxKept && !bytes.Contains(meta, []byte(arrowlib.ExtensionTypeKeyName)) {
		lastParsed.Store(p)
	}
	return p, nil
}

// checkType throws a type whose arrays Arrow makes, and then cannot use.
func checkType(t arrow.DataType) {
	switch t := t.(type) {
	case arrow.ExtensionType:
		checkType(t.StorageType())
	case *arrow.DictionaryType:
		checkType(t.ValueType)
	case arrow.DecimalType:
		most := int32(map[int]int{32: 9, 64: 18, 128: 38, 256: 76}[t.BitWidth()])
		if p, s := t.GetPrecision(), t.GetScale(); p < 1 || p > most || s < -most || s > most {
			broken("a %v", t)
		}
	case *arrow.FixedSizeBinaryType:
		if t.ByteWidth < 1 {
			broken("a %v", t)
		}
	case arrow.NestedType:
		for _, f := range t.Fields() {
			checkType(f.Type)
		}
	}
}

// shapes returns the fields of t, and throws what would cost more than the metadata is worth: what
// Arrow's reader would follow without end.
func (b *budget) shapes(t *flatbuffers.Table, slot flatbuffers.VOffsetT, depth int) []shape {
	if depth > maxNesting {
		broken("types are nested deeper than %d levels", maxNesting)
	}
	at, n := vector(t, slot, 4)
	if n == 0 {
		return nil
	}
	b.spend(n)
	shapes := make([]shape, n)
	for i := range n {
		field := flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(at + flatbuffers.UOffsetT(4*i))}
		shapes[i] = b.shape(&field, depth)
	}
	return shapes
}

func (b *budget) shape(field *flatbuffers.Table, depth int) (s shape) {
	b.text(field, fieldName)
	b.pairs(field, fieldCustom)
	switch field.GetByteSlot(fieldKind, 0) {
	case timestampKind:
		t := union(field, fieldType)
		b.text(&t, timestampZone)
	case unionKind:
		t := union(field, fieldType)
		vector(&t, unionIDs, 4) // which throws
	}
	if field.Offset(fieldDictionary) != 0 {
		t := union(field, fieldDictionary)
		s.encoded, s.id = true, t.GetInt64Slot(encodingID, 0)
	}
	s.children = b.shapes(field, fieldChildren, depth+1)
	s.any = s.encoded || slices.ContainsFunc(s.children, func(c shape) bool { return c.any })
	return s
}

// values is what the values of a dictionary are like.
type values struct {
	of    arrow.DataType
	shape *shape
}

// addDictionaries adds to found the dictionaries of a field of type t, by their numbers.
func addDictionaries(found map[int64]values, t arrow.DataType, s *shape) {
	if e, ok := t.(arrow.ExtensionType); ok {
		t = e.StorageType()
	}
	if e, ok := t.(*arrow.DictionaryType); ok {
		t = e.ValueType
		if _, known := found[s.id]; !known && s.encoded {
			found[s.id] = values{t, s}
		}
		if e, ok := t.(arrow.ExtensionType); ok {
			t = e.StorageType()
		}
	}
	if nested, ok := t.(arrow.NestedType); ok {
		for i, f := range nested.Fields() {
			addDictionaries(found, f.Type, &s.children[i])
		}
	}
}
