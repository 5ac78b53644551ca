package arrowipc

import (
	"context"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/tandemipc/tandem/ipc"
)

// ItemSender is an end of a stream that takes items: an [ipc.Sender] of [Item], or an open stream.
type ItemSender interface {
	Send(ctx context.Context, item Item) error
}

// Sender sends batches of one schema through a stream. One goroutine at a time may use it.
type Sender struct {
	arena  *ipc.Arena
	schema *arrow.Schema
	shapes []shape
	out    ItemSender

	first   []byte                // the message of the schema, until it was sent
	sent    map[int64]arrow.Array // the dictionaries that the receiver has
	message outgoing
}

// maxDictionaries is the most dictionaries of an item. A message may have that many buffers, and the batch.
const maxDictionaries = ipc.MaxBuffers - 1

// NewSender returns a sender of batches of a schema, which lie in buffers of a, to out. It fails
// for a schema that is another one when it has come through Arrow's IPC format, such as one with a
// dictionary of dictionaries, and for one that takes more than 8 MiB.
func NewSender(a *ipc.Arena, schema *arrow.Schema, out ItemSender) (*Sender, error) {
	e, err := encodeSchema(schema)
	if err != nil {
		return nil, err
	}
	return &Sender{arena: a, schema: schema, out: out, first: e.message, shapes: e.shapes, sent: make(map[int64]arrow.Array)}, nil
}

// Send sends a batch, which stays the caller's: its rows are copied into a buffer of the arena, once. While
// the arena is full Send waits until the receiver has released batches, or ctx ends. Its errors are
// those of [ipc.Sender.Send], an error that wraps [ErrSchema] for a batch of another schema, and those of
// [ipc.Arena.Alloc]. After an error that has not ended the stream the same batch, or another one, may be sent.
func (s *Sender) Send(ctx context.Context, rec arrow.RecordBatch) error {
	return s.sendBatch(ctx, rec, func() (ipc.Buffer, error) {
		return s.put(ctx, func() { s.message.batch(rec) })
	})
}

// sendBatch sends a batch and the dictionaries that it needs; put returns its buffer.
func (s *Sender) sendBatch(ctx context.Context, rec arrow.RecordBatch, put func() (ipc.Buffer, error)) error {
	if !rec.Schema().Equal(s.schema) {
		return fmt.Errorf("%w: %v, not %v", ErrSchema, rec.Schema(), s.schema)
	}
	var item Item
	defer func() { item.release() }()
	var changed, fresh []dictionary // fresh are those in item
	err := guardEncode(func() error {
		for _, d := range dictionariesOf(rec, s.shapes) {
			if !s.has(d) {
				changed = append(changed, d)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range changed {
		b, err := s.put(ctx, func() { s.message.dictionary(d) })
		if err != nil {
			return err
		}
		item.Dictionaries, fresh = append(item.Dictionaries, b), append(fresh, d)
		if len(fresh) == maxDictionaries {
			if err := s.send(ctx, &item, fresh); err != nil {
				return err
			}
			fresh = nil
		}
	}
	if item.Batch, err = put(); err != nil {
		return err
	}
	return s.send(ctx, &item, fresh)
}

// has reports whether the receiver has a dictionary, or one with the same values.
func (s *Sender) has(d dictionary) bool {
	old := s.sent[d.id]
	if old == nil {
		return false
	}
	if old.Data() == d.values {
		return true
	}
	if old.Len() != d.values.Len() {
		return false
	}
	now := array.MakeFromData(d.values)
	defer now.Release()
	return array.ApproxEqual(old, now, array.WithNaNsEqual(true), array.WithAbsTolerance(0))
}

// put returns a buffer with the message that prepare makes.
func (s *Sender) put(ctx context.Context, prepare func()) (ipc.Buffer, error) {
	if err := guardEncode(func() error { prepare(); return nil }); err != nil {
		return ipc.Buffer{}, err
	}
	b, err := s.arena.Alloc(ctx, s.message.size())
	if err != nil {
		return ipc.Buffer{}, err
	}
	if err := guardEncode(func() error { s.message.put(b.Bytes()); return nil }); err != nil {
		b.Release()
		return ipc.Buffer{}, err
	}
	return b, nil
}

// send sends the item, in which the dictionaries are fresh.
func (s *Sender) send(ctx context.Context, item *Item, fresh []dictionary) error {
	item.Schema = s.first
	if err := s.out.Send(ctx, *item); err != nil {
		return err
	}
	s.first = nil
	for _, d := range fresh {
		if old := s.sent[d.id]; old != nil {
			old.Release()
		}
		s.sent[d.id] = array.MakeFromData(d.values)
	}
	item.release()
	return nil
}

// Close lets go of the dictionaries that were sent. What the receiver has not released stays in use. The
// stream goes on; Send may not be called.
func (s *Sender) Close() {
	for _, d := range s.sent {
		d.Release()
	}
	s.sent = nil
}
