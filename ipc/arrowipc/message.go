package arrowipc

import (
	"encoding/binary"
	"fmt"
	"math"

	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/apache/arrow-go/v18/arrow"
)

// A buffer holds one message of Arrow's IPC format, or several: see docs/arrow.md. Each begins at a
// multiple of 64 bytes, and so do its body and each buffer of that.
//
//	0xFFFFFFFF | uint32: size of what follows, up to the body | metadata, padding | body
const (
	continuation = 0xFFFFFFFF
	prefixSize   = 8
	alignment    = 64
)

// maxMetadata is the most bytes of metadata that a message may have. That suffices for some 50,000 columns.
const maxMetadata = 8 << 20

func align(n int) int { return (n + alignment - 1) &^ (alignment - 1) }

// kind is the type of a message, as the metadata has it.
type kind byte

const (
	schemaMessage     kind = 1
	dictionaryMessage kind = 2
	batchMessage      kind = 3
)

func (k kind) String() string {
	switch k {
	case schemaMessage:
		return "schema"
	case dictionaryMessage:
		return "dictionary"
	case batchMessage:
		return "batch"
	}
	return fmt.Sprintf("message of kind %d", byte(k))
}

// version5 is the version of the metadata that all writers since Arrow 1.0 use.
const version5 = 4

// Places of fields in tables of the metadata, in the order of Arrow's Message.fbs and Schema.fbs.
const (
	messageVersion, messageKind, messageHeader, messageBody, messageCustom       = 4, 6, 8, 10, 12
	batchRows, batchNodes, batchBuffers, batchCompression, batchVariadic         = 4, 6, 8, 10, 12
	dictionaryID, dictionaryData, dictionaryDelta                                = 4, 6, 8
	schemaFields, schemaCustom                                                   = 6, 8
	fieldName, fieldKind, fieldType, fieldDictionary, fieldChildren, fieldCustom = 4, 8, 10, 12, 14, 16
	encodingID, unionIDs, timestampZone, keyOfPair, valueOfPair                  = 4, 6, 6, 4, 6
)

// node is one array of a batch.
type node struct{ length, nulls int }

// span is a part of the body.
type span struct{ offset, length int }

// message is the metadata of a message. It refers to nothing that a peer can change.
type message struct {
	kind     kind
	body     int // its size
	header   flatbuffers.Table
	custom   arrow.Metadata
	id       int64 // of a dictionary
	rows     int
	nodes    []node
	buffers  []span
	variadic []int

	bodyAt, buffersAt flatbuffers.UOffsetT // where the metadata has the size of the body and the list of buffers
}

// malformed is what is thrown where the metadata is not what it has to be; guard catches it.
type malformed string

func broken(format string, args ...any) { panic(malformed(fmt.Sprintf(format, args...))) }

// guard runs f, which reads what a peer has sent. All that f and Arrow panic with is an error of
// the peer's.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrMalformed, p)
		}
	}()
	return f()
}

// appendPrefix appends what a message begins with, before size bytes of metadata.
func appendPrefix(b []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, continuation), uint32(size))
}

// next takes the first message from b. The metadata is copied, since its sender can change b. It
// throws what is wrong. ok is false at the end.
func (m *message) next(b []byte) (meta, body, rest []byte, ok bool) {
	if len(b) == 0 {
		return nil, nil, nil, false
	}
	if len(b) < prefixSize {
		broken("%d bytes, which are no message", len(b))
	}
	if c := binary.LittleEndian.Uint32(b); c != continuation {
		broken("it begins with %#x", c)
	}
	size := int(binary.LittleEndian.Uint32(b[4:]))
	if size == 0 {
		return nil, nil, nil, false
	}
	if size < 0 || size > maxMetadata || size > len(b)-prefixSize {
		broken("metadata of %d bytes, of %d in all", uint32(size), len(b))
	}
	meta = append([]byte(nil), b[prefixSize:prefixSize+size]...)
	m.parse(meta)
	b = b[prefixSize+size:]
	if m.body > len(b) {
		broken("a body of %d bytes, of which there are %d", m.body, len(b))
	}
	rest = b[m.body:]
	if len(rest) > 0 {
		rest = rest[min(len(rest), align(m.body)-m.body):]
	}
	return meta, b[:m.body:m.body], rest, true
}

// parse reads the metadata of a message, and throws what is wrong.
func (m *message) parse(meta []byte) {
	*m = message{nodes: m.nodes[:0], buffers: m.buffers[:0], variadic: m.variadic[:0]}
	t := flatbuffers.Table{Bytes: meta, Pos: flatbuffers.GetUOffsetT(meta)}
	if v := t.GetInt16Slot(messageVersion, 0); v != version5 {
		broken("version %d of the metadata, not %d", v, version5)
	}
	m.kind = kind(t.GetByteSlot(messageKind, 0))
	m.body = toInt(t.GetInt64Slot(messageBody, 0))
	if at := t.Offset(messageBody); at != 0 {
		m.bodyAt = t.Pos + flatbuffers.UOffsetT(at)
	}
	b := newBudget(meta)
	m.custom = b.pairs(&t, messageCustom)
	m.header = union(&t, messageHeader)
	switch m.kind {
	case schemaMessage:
		if m.body != 0 {
			broken("a schema with a body")
		}
	case dictionaryMessage:
		if m.header.GetBoolSlot(dictionaryDelta, false) {
			broken("a dictionary that continues another one")
		}
		m.id = m.header.GetInt64Slot(dictionaryID, 0)
		data := union(&m.header, dictionaryData)
		m.parseBatch(&data)
	case batchMessage:
		m.parseBatch(&m.header)
	default:
		broken("a %v", m.kind)
	}
}

func (m *message) parseBatch(t *flatbuffers.Table) {
	if t.Offset(batchCompression) != 0 {
		broken("it is compressed")
	}
	m.rows = toInt(t.GetInt64Slot(batchRows, 0))
	at, n := vector(t, batchNodes, 16)
	for i := range n {
		p := at + flatbuffers.UOffsetT(16*i)
		x := node{toInt(t.GetInt64(p)), toInt(t.GetInt64(p + 8))}
		if x.nulls > x.length || x.length > max(math.MaxInt32, 8*m.body) {
			broken("array %d has %d nulls of %d, in a body of %d bytes", i, x.nulls, x.length, m.body)
		}
		m.nodes = append(m.nodes, x)
	}
	m.buffersAt, n = vector(t, batchBuffers, 16)
	for i := range n {
		p := m.buffersAt + flatbuffers.UOffsetT(16*i)
		s := span{toInt(t.GetInt64(p)), toInt(t.GetInt64(p + 8))}
		if s.offset > m.body || s.length > m.body-s.offset || s.length > 0 && s.offset%8 != 0 {
			broken("buffer %d has %d bytes at %d, of a body of %d", i, s.length, s.offset, m.body)
		}
		m.buffers = append(m.buffers, s)
	}
	at, n = vector(t, batchVariadic, 8)
	for i := range n {
		count := toInt(t.GetInt64(at + flatbuffers.UOffsetT(8*i)))
		if count > len(m.buffers) {
			broken("array of views %d has %d buffers, of %d in all", i, count, len(m.buffers))
		}
		m.variadic = append(m.variadic, count)
	}
}

// toInt returns a size or an index, and throws one that cannot be.
func toInt(n int64) int {
	if n < 0 || n > math.MaxInt {
		broken("a size of %d", n)
	}
	return int(n)
}

// union returns the table that a field of t is, and throws if there is none.
func union(t *flatbuffers.Table, slot flatbuffers.VOffsetT) (inner flatbuffers.Table) {
	at := t.Offset(slot)
	if at == 0 {
		broken("a part of the metadata is missing")
	}
	t.Union(&inner, flatbuffers.UOffsetT(at))
	return inner
}

// vector returns where the elements of a list are, and how many, and throws if that is beyond the
// metadata.
func vector(t *flatbuffers.Table, slot flatbuffers.VOffsetT, size int) (at flatbuffers.UOffsetT, n int) {
	o := flatbuffers.UOffsetT(t.Offset(slot))
	if o == 0 {
		return 0, 0
	}
	at, n = t.Vector(o), t.VectorLen(o)
	if uint64(at)+uint64(uint32(n))*uint64(size) > uint64(len(t.Bytes)) {
		broken("a list of %d elements, of %d bytes of metadata", uint32(n), len(t.Bytes))
	}
	return at, n
}

// budget is how much of what the metadata refers to may still be taken, as parts of it can refer to
// the same bytes any number of times.
type budget struct{ tables, bytes int }

// newBudget returns what an honest writer needs at most, for whom a table takes 32 bytes at least,
// and a text its bytes.
func newBudget(meta []byte) *budget { return &budget{len(meta) / 32, len(meta)} }

// spend takes n tables.
func (b *budget) spend(n int) {
	if b.tables -= n; b.tables < 0 {
		broken("more fields, or keys, than the metadata has")
	}
}

// text returns a string of t.
func (b *budget) text(t *flatbuffers.Table, slot flatbuffers.VOffsetT) string {
	at, n := vector(t, slot, 1)
	if b.bytes -= n; b.bytes < 0 {
		broken("more text than the metadata has")
	}
	return string(t.Bytes[at : int(at)+n])
}

// pairs returns keys and values of t.
func (b *budget) pairs(t *flatbuffers.Table, slot flatbuffers.VOffsetT) arrow.Metadata {
	at, n := vector(t, slot, 4)
	if n == 0 {
		return arrow.Metadata{}
	}
	b.spend(n)
	keys, values := make([]string, n), make([]string, n)
	for i := range n {
		pair := flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(at + flatbuffers.UOffsetT(4*i))}
		keys[i], values[i] = b.text(&pair, keyOfPair), b.text(&pair, valueOfPair)
	}
	return arrow.NewMetadata(keys, values)
}
