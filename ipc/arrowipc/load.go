package arrowipc

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// loader makes arrays of a message, whose buffers are parts of body. It throws what does not fit the
// schema.
type loader struct {
	*message
	body                    *memory.Buffer
	dictionaries            map[int64]*array.Data
	nextNode, nextBuffer    int
	nextVariadic, levelLeft int
}

// make returns the next array of the message, of type t.
func (l *loader) make(t arrow.DataType, s *shape) arrow.Array {
	data := l.column(t, s)
	defer data.Release()
	return array.MakeFromData(data)
}

// column returns the data of the next array of the message, of type t.
func (l *loader) column(t arrow.DataType, s *shape) *array.Data {
	if l.levelLeft--; l.levelLeft < 0 {
		broken("types are nested deeper than %d levels", maxNesting)
	}
	defer func() { l.levelLeft++ }()
	switch t := t.(type) {
	case arrow.ExtensionType:
		storage := l.column(t.StorageType(), s)
		defer storage.Release()
		return l.dress(storage, t)
	case *arrow.DictionaryType:
		indices := l.column(t.IndexType, &shape{})
		defer indices.Release()
		return l.encoded(indices, t, s)
	}
	n := l.node()
	buffers := l.bodies(t, n)
	defer memory.ReleaseBuffers(buffers)
	nulls := n.nulls
	switch t.ID() {
	case arrow.NULL:
		nulls = n.length
	case arrow.SPARSE_UNION, arrow.DENSE_UNION, arrow.RUN_END_ENCODED:
		if nulls != 0 {
			broken("%v with nulls of its own", t)
		}
	}
	var children []arrow.ArrayData
	if nested, ok := t.(arrow.NestedType); ok {
		fields := nested.Fields()
		if len(fields) != len(s.children) {
			broken("%v of %d fields", t, len(s.children))
		}
		defer func() {
			for _, c := range children {
				c.Release()
			}
		}()
		for i, f := range fields {
			children = append(children, l.column(f.Type, &s.children[i]))
		}
	}
	return array.NewData(t, n.length, buffers, children, nulls, 0)
}

// dress returns the array as one of the type whose storage it is.
func (l *loader) dress(storage *array.Data, t arrow.ExtensionType) *array.Data {
	d := array.NewData(t, storage.Len(), storage.Buffers(), storage.Children(), storage.NullN(), 0)
	if dictionary, _ := storage.Dictionary().(*array.Data); dictionary != nil {
		d.SetDictionary(dictionary)
	}
	return d
}

// encoded returns the array whose values are those of a dictionary at indices.
func (l *loader) encoded(indices *array.Data, t *arrow.DictionaryType, s *shape) *array.Data {
	if !s.encoded {
		broken("%v without a dictionary", t)
	}
	dictionary := l.dictionaries[s.id]
	if dictionary == nil && indices.Len() > 0 {
		broken("dictionary %d has not come", s.id)
	}
	return array.NewDataWithDictionary(t, indices.Len(), indices.Buffers(), indices.NullN(), 0, dictionary)
}

func (l *loader) node() node {
	if l.nextNode == len(l.nodes) {
		broken("it has %d arrays, too few for the schema", len(l.nodes))
	}
	l.nextNode++
	return l.nodes[l.nextNode-1]
}

// part returns the next buffer of the message.
func (l *loader) part() *memory.Buffer {
	if l.nextBuffer == len(l.buffers) {
		broken("it has %d buffers, too few for the schema", len(l.buffers))
	}
	s := l.buffers[l.nextBuffer]
	l.nextBuffer++
	if s.length == 0 {
		return memory.NewBufferBytes([]byte{})
	}
	return memory.SliceBuffer(l.body, s.offset, s.length)
}

// bodies returns the buffers of an array of type t, as [array.NewData] wants them.
func (l *loader) bodies(t arrow.DataType, n node) []*memory.Buffer {
	switch t.ID() {
	case arrow.NULL, arrow.RUN_END_ENCODED:
		return []*memory.Buffer{nil}
	case arrow.SPARSE_UNION:
		return []*memory.Buffer{nil, l.part()}
	case arrow.DENSE_UNION:
		return []*memory.Buffer{nil, l.part(), l.part()}
	}
	layout := t.Layout()
	count := len(layout.Buffers)
	if layout.VariadicSpec != nil {
		if l.nextVariadic == len(l.variadic) {
			broken("it does not say how many buffers %v has", t)
		}
		count += l.variadic[l.nextVariadic]
		l.nextVariadic++
	}
	buffers := make([]*memory.Buffer, count)
	for i := range buffers {
		if buffers[i] = l.part(); i == 0 && n.nulls == 0 {
			buffers[0].Release()
			buffers[0] = nil // which values are there: all
		}
	}
	return buffers
}

// done throws if the message has more than the schema.
func (l *loader) done() {
	if l.nextNode != len(l.nodes) || l.nextBuffer != len(l.buffers) || l.nextVariadic != len(l.variadic) {
		broken("it has more than the schema: %d of %d arrays, and %d of %d buffers are of it", l.nextNode, len(l.nodes), l.nextBuffer, len(l.buffers))
	}
}

// check checks an array whose data may be anything.
func (o *ReadOptions) check(a arrow.Array) error {
	validate := array.ValidateFull
	if o.Check == CheckSizes {
		validate = array.Validate
	}
	if err := validate(a); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}
