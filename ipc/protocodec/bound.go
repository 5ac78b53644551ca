package protocodec

import (
	"math"
	"reflect"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/tandemipc/tandem/ipc"
)

// What decoding a message may take unless the method says otherwise, as with the codecs of ipc.
const (
	maxDecoded       = 256 << 20
	maxDecodedFactor = 32
)

// What values count for, in bytes, beside their own.
const (
	scalarBytes = 16 // an element of a list that grows
	stringBytes = 48 // the same, of text or bytes
	entryBytes  = 128
	slotBytes   = 32 // a pointer in a list that grows, and what a oneof has around it
	unsized     = 64 // no encoding takes more for a byte, but messages
)

// shape is what a type of message makes of its encoding.
type shape struct {
	size     int64 // of the struct
	fields   map[protowire.Number]field
	worst    int64 // the most that a byte can make of it; too much for any bound if it has extensions
	extended protoreflect.MessageDescriptor
}

type field struct {
	message protoreflect.MessageType // nil if it has none
	list    bool                     // of scalars
	entry   bool                     // of a map; message is that of the value
	text    bool
}

var shapes sync.Map // of protoreflect.MessageType, to *shape

func shapeOf(t protoreflect.MessageType) *shape {
	if known, ok := shapes.Load(t); ok {
		return known.(*shape)
	}
	s := newShape(t)
	s.worst = worstOf(t, make(map[protoreflect.MessageType]bool))
	known, _ := shapes.LoadOrStore(t, s)
	return known.(*shape)
}

// newShape makes a shape, without worst.
func newShape(t protoreflect.MessageType) *shape {
	d, empty := t.Descriptor(), t.New()
	s := &shape{size: sizeOf(t), fields: make(map[protowire.Number]field)}
	if d.ExtensionRanges().Len() > 0 {
		s.extended = d
	}
	for i := range d.Fields().Len() {
		s.fields[d.Fields().Get(i).Number()] = fieldOf(d.Fields().Get(i), empty.NewField)
	}
	return s
}

func fieldOf(d protoreflect.FieldDescriptor, make func(protoreflect.FieldDescriptor) protoreflect.Value) (f field) {
	if d.IsMap() {
		f.entry = true
		if d.MapValue().Message() != nil {
			f.message = make(d).Map().NewValue().Message().Type()
		}
		return f
	}
	f.text = d.Kind() == protoreflect.StringKind || d.Kind() == protoreflect.BytesKind
	f.list = d.IsList() && !f.text && d.Message() == nil
	switch {
	case d.Message() == nil:
	case d.IsList():
		f.message = make(d).List().NewElement().Message().Type()
	default:
		f.message = make(d).Message().Type()
	}
	return f
}

func sizeOf(t protoreflect.MessageType) int64 {
	return int64(reflect.TypeOf(t.Zero().Interface()).Elem().Size()) * 9 / 8
}

// worstOf returns the most that a byte can make of t, and of what is in it: two are a message.
func worstOf(t protoreflect.MessageType, seen map[protoreflect.MessageType]bool) int64 {
	if seen[t] {
		return 0
	}
	seen[t] = true
	s := newShape(t)
	if s.extended != nil {
		return math.MaxInt32
	}
	worst := unsized + s.size/2
	for _, f := range s.fields {
		if f.message != nil {
			worst = max(worst, worstOf(f.message, seen))
		}
	}
	return worst
}

// check fails if decoding data into m would take more than the bound.
func (c codec) check(data []byte, m proto.Message) error {
	size, bound := int64(len(data)), int64(c.bound)
	if bound == 0 {
		bound = max(maxDecoded, maxDecodedFactor*size)
	}
	s := shapeOf(m.ProtoReflect().Type())
	if s.worst < math.MaxInt32 && size <= math.MaxInt32 && size*s.worst <= bound {
		return nil
	}
	w := walk{left: bound}
	w.message(data, s, 0)
	if w.left < 0 {
		return ipc.Errorf(ipc.CodeResourceExhausted, "tandem: message of %d bytes takes more than %d bytes to decode into %T (see ipc.WithMaxDecoded)", size, bound, m)
	}
	return nil
}

// walk counts what decoding takes, as far as the decoder gets: to the first thing that is wrong.
type walk struct {
	left int64 // of the bound; negative when it is exceeded
	end  bool
}

func (w *walk) take(n int64) {
	if w.left -= n; w.left < 0 {
		w.end = true
	}
}

// message counts a message, which ends with b or with the end of its group, and returns what follows.
func (w *walk) message(b []byte, s *shape, depth int) []byte {
	w.take(s.size)
	if depth > protowire.DefaultRecursionLimit {
		w.end = true // the decoder says so
	}
	for len(b) > 0 && !w.end {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			w.end = true
			return nil
		}
		start := b
		b = b[n:]
		if kind == protowire.EndGroupType {
			return b
		}
		f, known := s.fields[number]
		if !known && s.extended != nil {
			f, known = extension(s.extended, number)
		}
		if known && kind == protowire.StartGroupType && f.message != nil {
			w.take(slotBytes)
			b = w.message(b, shapeOf(f.message), depth+1)
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			w.end = true
			return nil
		}
		value := b[:n]
		b = b[n:]
		if !known {
			w.take(2 * int64(len(start)-len(b))) // it is kept
			continue
		}
		w.field(f, kind, value, depth)
	}
	return nil
}

// field counts the value of a field that is known.
func (w *walk) field(f field, kind protowire.Type, value []byte, depth int) {
	if kind != protowire.BytesType {
		if f.list {
			w.take(scalarBytes)
		} else if f.text || f.message != nil || f.entry {
			w.take(2*int64(len(value)) + scalarBytes) // of another type, so it is kept
		}
		return
	}
	inner, _ := protowire.ConsumeBytes(value)
	switch {
	case f.entry:
		w.take(entryBytes + 2*int64(len(inner)))
		w.entry(f, inner, depth)
	case f.message != nil:
		w.take(slotBytes)
		w.message(inner, shapeOf(f.message), depth+1)
	case f.text:
		w.take(stringBytes + 2*int64(len(inner)))
	default: // packed
		w.take(scalarBytes * (int64(len(inner)) + 1))
	}
}

// entry counts the messages in an entry of a map.
func (w *walk) entry(f field, b []byte, depth int) {
	if f.message == nil {
		return
	}
	s := shapeOf(f.message)
	w.take(s.size) // though it may have none
	for len(b) > 0 && !w.end {
		number, kind, n := protowire.ConsumeField(b)
		if n < 0 {
			w.end = true
			return
		}
		if _, _, tag := protowire.ConsumeTag(b); number == 2 && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b[tag:n])
			w.message(value, s, depth+1)
		}
		b = b[n:]
	}
}

// extension returns what the program knows of an extension of d.
func extension(d protoreflect.MessageDescriptor, number protowire.Number) (field, bool) {
	if !d.ExtensionRanges().Has(number) {
		return field{}, false
	}
	t, err := protoregistry.GlobalTypes.FindExtensionByNumber(d.FullName(), number)
	if err != nil {
		return field{}, false
	}
	return fieldOf(t.TypeDescriptor(), func(protoreflect.FieldDescriptor) protoreflect.Value { return t.New() }), true
}
