package arrowipc

import (
	"context"
	"fmt"
	"io"
	"iter"

	"github.com/apache/arrow-go/v18/arrow"
)

// ItemReceiver is an end of a stream that has items: an [ipc.Receiver] of [Item], or an open stream.
type ItemReceiver interface {
	Receive(ctx context.Context) (Item, error)
}

// Receiver receives the batches that a [Sender] has sent. One goroutine at a time may use it; the batches
// may be used by any.
type Receiver struct {
	in      ItemReceiver
	decoder decoder
	err     error // why Receive fails, ever after
}

// NewReceiver returns a receiver of the batches that come from in.
func NewReceiver(in ItemReceiver, o ReadOptions) *Receiver {
	return &Receiver{in: in, decoder: decoder{options: o}}
}

// Receive returns the next batch, which has to be released. Its arrays lie in memory that it shares
// with the sender, unless the bytes have travelled through a socket; see the package on how long. After
// the last one it returns io.EOF.
//
// Its errors are those of [ipc.Receiver.Receive], and errors that wrap [ErrMalformed], [ErrSchema] or
// [ErrNotFrozen]. After one of the latter every further call returns it: the stream should be closed,
// which Receive does not do.
func (r *Receiver) Receive(ctx context.Context) (arrow.RecordBatch, error) {
	for r.err == nil {
		item, err := r.in.Receive(ctx)
		if err == io.EOF {
			r.Close()
		}
		if err != nil {
			return nil, err
		}
		rec, err := r.take(item)
		if err != nil {
			r.Close()
			r.err = err
		} else if rec != nil {
			return rec, nil
		}
	}
	return nil, r.err
}

// All returns the batches that Receive would return, each of which has to be released. If the
// stream fails the last element is an error. Leaving the loop leaves the stream as it is.
func (r *Receiver) All(ctx context.Context) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		for {
			rec, err := r.Receive(ctx)
			if err == io.EOF {
				return
			}
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

// Schema returns the schema of the stream, or nil before the first batch has come.
func (r *Receiver) Schema() *arrow.Schema {
	if p := r.decoder.parsed; p != nil {
		return p.schema
	}
	return nil
}

// Close lets go of the dictionaries that have come. Batches stay as they are, and the stream goes on; but
// Receive may not be called. The end of the stream, or an error of Receive that says that its items
// are wrong, does the same.
func (r *Receiver) Close() { r.decoder.close() }

// take reads an item, whose buffers are the receiver's. It returns nil if there is no batch in it.
func (r *Receiver) take(item Item) (rec arrow.RecordBatch, err error) {
	left := append(item.Dictionaries, item.Batch)
	defer func() {
		for _, b := range left {
			b.Release() // what was not read, after an error
		}
	}()
	d := &r.decoder
	if len(item.Schema) > 0 {
		if err := d.readSchema(item.Schema); err != nil {
			return nil, err
		}
	}
	if d.parsed == nil {
		return nil, fmt.Errorf("%w: the stream does not begin with a schema", ErrMalformed)
	}
	for range item.Dictionaries {
		b := left[0]
		left = left[1:]
		if _, err := d.read(b, dictionaryMessage); err != nil {
			return nil, err
		}
	}
	left = nil
	if item.Batch.IsZero() {
		return nil, nil
	}
	if rec, err = d.read(item.Batch, batchMessage); err == nil && rec == nil {
		err = fmt.Errorf("%w: there is no batch in a buffer", ErrMalformed)
	}
	return rec, err
}
