package arrowipc

import (
	"context"
	"fmt"
	"sync/atomic"

	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	arrowlib "github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tandemipc/tandem/ipc"
)

// Encode returns a buffer of a with the batch in it: its schema, its dictionaries and its columns, of
// a slice only its rows. [Decode] reads it, and so does whatever reads streams in Arrow's IPC
// format. The batch stays the caller's: it is copied, once. The buffer has to be released.
//
// While a is full Encode waits until buffers are released, or ctx ends. It fails for a schema that
// [NewSender] refuses.
func Encode(ctx context.Context, a *ipc.Arena, rec arrow.RecordBatch) (ipc.Buffer, error) {
	schema, err := encodeSchema(rec.Schema())
	if err != nil {
		return ipc.Buffer{}, err
	}
	messages := []*outgoing{{meta: schema.message[prefixSize:]}}
	err = guardEncode(func() error {
		for _, d := range dictionariesOf(rec, schema.shapes) {
			messages = append(messages, new(outgoing).dictionary(d))
		}
		messages = append(messages, new(outgoing).batch(rec))
		return nil
	})
	if err != nil {
		return ipc.Buffer{}, err
	}
	size := 0
	for _, m := range messages {
		size += m.size()
	}
	b, err := a.Alloc(ctx, size)
	if err != nil {
		return ipc.Buffer{}, err
	}
	err = guardEncode(func() error {
		dst := b.Bytes()
		for _, m := range messages {
			n := m.size()
			m.put(dst[:n:n])
			dst = dst[n:]
		}
		return nil
	})
	if err != nil {
		b.Release()
		return ipc.Buffer{}, err
	}
	return b, nil
}

// guardEncode runs f, which looks at arrays of the caller. If one is not what its type says that is
// an error.
func guardEncode(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("tandem: a batch that cannot be sent: %v", p)
		}
	}()
	return f()
}

// outgoing is a message that is about to be put into a buffer. The arrays that it was made of have to
// stay as they are until then.
type outgoing struct {
	meta    []byte
	body    body
	builder *flatbuffers.Builder
}

func (m *outgoing) size() int { return align(prefixSize+len(m.meta)) + m.body.size }

// put puts the message into dst, which has its size.
func (m *outgoing) put(dst []byte) {
	start := align(prefixSize + len(m.meta))
	m.putMeta(dst[:start])
	m.body.put(dst[start:])
}

// putMeta puts what comes before the body into dst.
func (m *outgoing) putMeta(dst []byte) {
	appendPrefix(dst[:0], len(dst)-prefixSize)
	clear(dst[prefixSize+copy(dst[prefixSize:], m.meta):])
}

// batch makes m the message of a batch.
func (m *outgoing) batch(rec arrow.RecordBatch) *outgoing {
	m.columns(rec)
	return m.finishBatch(rec)
}

// columns makes the columns of a batch the body of m.
func (m *outgoing) columns(rec arrow.RecordBatch) {
	m.body.reset()
	for _, c := range rec.Columns() {
		m.body.array(c.Data(), c.Data().Offset(), int(rec.NumRows()))
	}
}

// finishBatch makes the metadata of a batch, whose body is made.
func (m *outgoing) finishBatch(rec arrow.RecordBatch) *outgoing {
	var custom arrow.Metadata
	if with, ok := rec.(arrow.RecordBatchWithMetadata); ok {
		custom = with.Metadata()
	}
	return m.finish(batchMessage, 0, int(rec.NumRows()), custom)
}

// dictionary makes m the message of a dictionary.
func (m *outgoing) dictionary(d dictionary) *outgoing {
	m.body.reset()
	m.body.array(d.values, d.values.Offset(), d.values.Len())
	return m.finish(dictionaryMessage, d.id, d.values.Len(), arrow.Metadata{})
}

func (m *outgoing) finish(k kind, id int64, rows int, custom arrow.Metadata) *outgoing {
	if m.builder == nil {
		m.builder = flatbuffers.NewBuilder(1024)
	}
	m.meta = m.body.metadata(m.builder, k, id, rows, custom)
	if len(m.meta) > maxMetadata-alignment {
		broken("%d bytes of metadata; %d are the most", len(m.meta), maxMetadata-alignment)
	}
	return m
}

// dictionary is one that a batch needs, with its number in the schema.
type dictionary struct {
	id     int64
	values arrow.ArrayData
}

// dictionariesOf returns the dictionaries of a batch, those that others need before them.
func dictionariesOf(rec arrow.RecordBatch, shapes []shape) (found []dictionary) {
	for i, c := range rec.Columns() {
		if shapes[i].any {
			found = appendDictionaries(found, c.Data(), &shapes[i])
		}
	}
	return found
}

func appendDictionaries(found []dictionary, d arrow.ArrayData, s *shape) []dictionary {
	values := d
	if s.encoded {
		if values, _ = d.Dictionary().(*array.Data); values.(*array.Data) == nil {
			return found // of no rows
		}
	}
	for i, c := range values.Children() {
		if s.children[i].any {
			found = appendDictionaries(found, c, &s.children[i])
		}
	}
	if s.encoded {
		found = append(found, dictionary{s.id, values})
	}
	return found
}

// encodedSchema is a schema as it is sent. Nobody changes it.
type encodedSchema struct {
	of      *arrow.Schema
	message []byte
	shapes  []shape
}

// lastEncoded is the schema that was sent last, as the next one is often the same.
var lastEncoded atomic.Pointer[encodedSchema]

// encodeSchema returns the message of a schema, whose size is a multiple of 64, and its shapes. It fails
// if what a receiver would make of it is another schema.
func encodeSchema(schema *arrow.Schema) (*encodedSchema, error) {
	if e := lastEncoded.Load(); e != nil && e.of == schema {
		return e, nil
	}
	e := &encodedSchema{of: schema}
	d := decoder{options: ReadOptions{Schema: schema}}
	err := guardEncode(func() error {
		p := arrowlib.GetSchemaPayload(schema, memory.DefaultAllocator)
		defer p.Release()
		meta := p.Meta()
		defer meta.Release()
		m := outgoing{meta: meta.Bytes()}
		e.message = make([]byte, m.size())
		m.put(e.message)
		return nil
	})
	if err == nil {
		err = d.readSchema(e.message)
	}
	if err != nil {
		return nil, fmt.Errorf("tandem: a schema that cannot be sent: %w", err)
	}
	e.shapes = d.parsed.shapes
	if len(e.message) <= maxKept {
		lastEncoded.Store(e)
	}
	return e, nil
}
