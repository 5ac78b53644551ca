package arrowipc

import (
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tandemipc/tandem/ipc"
)

// ReadOptions say how batches are received. The zero value is for senders that are trusted not to
// write what they have sent.
type ReadOptions struct {
	// Schema, if not nil, is the schema that the batches have to have, without its metadata. Another
	// one is an error that wraps [ErrSchema].
	Schema *arrow.Schema
	// Check says what is checked before a batch is handed out.
	Check Check
	// Copy copies each batch into memory of this process before it is checked, and releases the buffer.
	Copy bool
	// Frozen refuses buffers that somebody can still write ([ipc.Buffer.Frozen]), with an error that
	// wraps [ErrNotFrozen].
	Frozen bool
}

// Check says what is checked of a batch that was received, before it is handed out.
type Check int

const (
	// CheckValues checks that every offset, index, size, type code and number of nulls is one that the
	// batch can have, and that text is UTF-8: all of Arrow's ValidateFull. It reads what it checks. Columns
	// of fixed size without nulls need none of it.
	CheckValues Check = iota
	// CheckSizes checks sizes, numbers and places of arrays and buffers, and the first and last
	// offset: Arrow's Validate. It takes the same time for any number of rows.
	CheckSizes
)

var (
	// ErrMalformed: what has come is no batch, or not one of the stream's schema.
	ErrMalformed = errors.New("tandem: malformed Arrow data")
	// ErrSchema: a batch is not of the schema that it should have.
	ErrSchema = errors.New("tandem: another schema")
	// ErrNotFrozen: a buffer can still be written, and [ReadOptions.Frozen] refuses that.
	ErrNotFrozen = errors.New("tandem: the buffer of a batch is not frozen")
)

// Decode returns the batch that [Encode] has put into b, or the first one of a stream in Arrow's IPC
// format that is there. Its arrays lie in the memory of b. The batch has a holder of its own of that,
// which is released with the last of what was made of the batch; b stays the caller's, and may be
// released at any time. The batch has to be released.
//
// What is no batch is an error that wraps [ErrMalformed]. b may be anything, whoever has sent it.
func Decode(b ipc.Buffer, o ReadOptions) (arrow.RecordBatch, error) {
	d := decoder{options: o}
	defer d.close()
	rec, err := d.read(b.Retain(), schemaMessage, dictionaryMessage, batchMessage)
	if err == nil && rec == nil {
		err = fmt.Errorf("%w: there is no batch", ErrMalformed)
	}
	return rec, err
}

// decoder makes batches of the buffers that have come.
type decoder struct {
	options      ReadOptions
	parsed       *parsed               // the schema, nil before it has come
	dictionaries map[int64]*array.Data // by their numbers
	message      message
}

// close lets go of what later batches would need.
func (d *decoder) close() {
	for _, x := range d.dictionaries {
		x.Release()
	}
	d.dictionaries = nil
}

// readSchema reads the message of a schema.
func (d *decoder) readSchema(b []byte) error {
	return guard(func() error {
		meta, _, _, ok := d.message.next(b)
		if !ok || d.message.kind != schemaMessage || d.parsed != nil {
			broken("no schema, or a second one, where a stream has its schema")
		}
		return d.takeSchema(meta)
	})
}

// read reads the messages of a buffer, which may be of the kinds in allowed, up to the first batch,
// which it returns. rec is nil if there is none. The buffer is the decoder's. After an error the
// decoder has to be closed: dictionaries of the buffer may be gone.
func (d *decoder) read(b ipc.Buffer, allowed ...kind) (rec arrow.RecordBatch, err error) {
	if d.options.Frozen && !b.Frozen() {
		b.Release()
		return nil, ErrNotFrozen
	}
	bytes := b.Bytes()
	var owner *memory.Buffer
	if d.options.Copy || !aligned(bytes) {
		copied := memory.DefaultAllocator.Allocate(len(bytes))
		copy(copied, bytes)
		b.Release()
		bytes = copied
		owner = memory.NewBufferBytes(bytes)
	} else {
		owner = memory.NewBufferWithAllocator(bytes, lease{b})
	}
	defer func() {
		owner.Release()
		if err != nil {
			// Arrays that were begun may still count as users, but nobody has them.
			b.Release()
		}
	}()
	err = guard(func() (err error) {
		for rest := bytes; rec == nil && err == nil; {
			at := len(bytes) - len(rest)
			meta, body, next, ok := d.message.next(rest)
			if !ok {
				return nil
			}
			rest = next
			rec, err = d.take(meta, owner, at+prefixSize+len(meta), len(body), allowed)
		}
		return err
	})
	return rec, err
}

// take takes the message that was parsed, whose body has n bytes at offset at of owner.
func (d *decoder) take(meta []byte, owner *memory.Buffer, at, n int, allowed []kind) (rec arrow.RecordBatch, err error) {
	m := &d.message
	ok := false
	for _, k := range allowed {
		ok = ok || k == m.kind
	}
	if !ok || m.kind == schemaMessage && d.parsed != nil || m.kind != schemaMessage && d.parsed == nil {
		broken("a %v where there may be none", m.kind)
	}
	body := memory.SliceBuffer(owner, at, n)
	defer body.Release()
	switch m.kind {
	case schemaMessage:
		return nil, d.takeSchema(meta)
	case dictionaryMessage:
		return nil, d.takeDictionary(body)
	}
	return d.takeBatch(body)
}

func (d *decoder) takeSchema(meta []byte) (err error) {
	if d.parsed, err = parseSchema(&d.message, meta); err != nil {
		return err
	}
	d.dictionaries = make(map[int64]*array.Data)
	if want := d.options.Schema; want != nil && !want.Equal(d.parsed.schema) {
		return fmt.Errorf("%w: %v, not %v", ErrSchema, d.parsed.schema, want)
	}
	return nil
}

func (d *decoder) loader(body *memory.Buffer) *loader {
	return &loader{message: &d.message, body: body, dictionaries: d.dictionaries, levelLeft: maxNesting}
}

func (d *decoder) takeDictionary(body *memory.Buffer) error {
	v, ok := d.parsed.values[d.message.id]
	if !ok {
		broken("dictionary %d is of no column", d.message.id)
	}
	l := d.loader(body)
	data := l.column(v.of, v.shape)
	defer data.Release()
	l.done()
	if data.Len() != d.message.rows {
		broken("a dictionary of %d values has %d", d.message.rows, data.Len())
	}
	all := array.MakeFromData(data)
	defer all.Release()
	if err := d.options.check(all); err != nil {
		return err
	}
	if old := d.dictionaries[d.message.id]; old != nil {
		old.Release()
	}
	data.Retain()
	d.dictionaries[d.message.id] = data
	return nil
}

func (d *decoder) takeBatch(body *memory.Buffer) (arrow.RecordBatch, error) {
	l := d.loader(body)
	columns := make([]arrow.Array, 0, d.parsed.schema.NumFields())
	defer func() {
		for _, c := range columns {
			c.Release()
		}
	}()
	for i, f := range d.parsed.schema.Fields() {
		column := l.make(f.Type, &d.parsed.shapes[i])
		columns = append(columns, column)
		if column.Len() != d.message.rows {
			broken("column %q has %d rows, of %d", f.Name, column.Len(), d.message.rows)
		}
		if err := d.options.check(column); err != nil {
			return nil, fmt.Errorf("column %q: %w", f.Name, err)
		}
	}
	l.done()
	return array.NewRecordBatchWithMetadata(d.parsed.schema, columns, int64(d.message.rows), d.message.custom), nil
}

// lease is a holder of a buffer as the memory of Arrow's.
type lease struct{ buffer ipc.Buffer }

// Allocate implements [memory.Allocator].
func (lease) Allocate(int) []byte {
	panic("tandem: the memory of a batch that was received is changed")
}

// Reallocate implements [memory.Allocator].
func (l lease) Reallocate(int, []byte) []byte { return l.Allocate(0) }

// Free implements [memory.Allocator].
func (l lease) Free([]byte) { l.buffer.Release() }
