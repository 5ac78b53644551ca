package arrowipc

import (
	"context"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tandemipc/tandem/ipc"
)

// Region is memory of an arena in which one batch is built, so that sending it copies nothing. It is an
// allocator for builders, which take up to twice what the batch has, or for whatever else makes arrays.
// [Sender.SendFrom] sends the batch. One goroutine at a time may use a region.
//
//	region, err := sender.NewRegion(ctx, 1<<20)
//	defer region.Release()
//	b := array.NewRecordBuilder(region, schema)
//	defer b.Release()
//	b.Reserve(rows) // otherwise builders begin small, and what they outgrow stays in the region
//	...
//	rec := b.NewRecordBatch()
//	defer rec.Release()
//	err = sender.SendFrom(ctx, region, rec)
type Region struct {
	buffer    ipc.Buffer
	head, mem []byte // parts of it: for the metadata, and for the batch
	used      int    // bytes of mem
	last      int    // where in mem the last allocation begins

	rec  arrow.RecordBatch // that was sent
	size int               // of its message
}

// headRoom is for the metadata of a batch beyond what the schema needs: keys and values, and the numbers
// of buffers that string views have.
const headRoom = 1 << 10

// NewRegion returns a region of a buffer of the arena, with room for n bytes. It waits as [ipc.Arena.Alloc]
// does. It has to be released.
func (s *Sender) NewRegion(ctx context.Context, n int) (*Region, error) {
	empty := array.NewRecordBuilder(memory.DefaultAllocator, s.schema)
	defer empty.Release()
	rec := empty.NewRecordBatch()
	defer rec.Release()
	if err := guardEncode(func() error { s.message.batch(rec); return nil }); err != nil {
		return nil, err
	}
	head := align(prefixSize + len(s.message.meta) + headRoom)
	b, err := s.arena.Alloc(ctx, head+align(n))
	if err != nil {
		return nil, err
	}
	mem := b.Bytes()
	return &Region{buffer: b, head: mem[:head:head], mem: mem[head:]}, nil
}

// Release releases the memory, which is free when the receivers have released the batch, too. Builders
// and arrays that have memory of the region may not be used any more. Further calls do nothing.
func (r *Region) Release() {
	if r.rec != nil {
		r.rec.Release()
	}
	r.buffer.Release()
	*r = Region{}
}

// Left returns how many bytes are left.
func (r *Region) Left() int { return len(r.mem) - align(r.used) }

// Allocate implements [memory.Allocator]. Where the region has no room, and after its batch was sent, it
// returns memory of Go's.
func (r *Region) Allocate(n int) []byte {
	b := r.take(n)
	if b == nil {
		return memory.DefaultAllocator.Allocate(n)
	}
	clear(b)
	return b
}

// take returns n bytes of the region that hold anything, or nil.
func (r *Region) take(n int) []byte {
	at := align(r.used)
	if r.rec != nil || n > len(r.mem)-at {
		return nil
	}
	r.last, r.used = at, at+n
	return r.mem[at:r.used:r.used]
}

// Reallocate implements [memory.Allocator].
func (r *Region) Reallocate(n int, b []byte) []byte {
	at, ours := offsetIn(b, r.mem)
	switch {
	case len(b) == 0:
		return r.Allocate(n)
	case !ours:
		return memory.DefaultAllocator.Reallocate(n, b)
	case n <= len(b):
		if at == r.last && r.rec == nil {
			r.used = at + n
		}
		return b[:n:n]
	case at == r.last && r.rec == nil && n <= len(r.mem)-at:
		clear(r.mem[at+len(b) : at+n])
		r.used = at + n
		return r.mem[at:r.used:r.used]
	}
	more := r.Allocate(n)
	copy(more, b)
	return more
}

// Free implements [memory.Allocator]. Only what was allocated last is there again.
func (r *Region) Free(b []byte) {
	at, ours := offsetIn(b, r.mem)
	switch {
	case len(b) == 0:
	case !ours:
		memory.DefaultAllocator.Free(b)
	case at == r.last && r.rec == nil:
		r.used = at
	}
}

// SendFrom is [Sender.Send] of a batch that was built in r. What lies there already is not copied; the
// rest, such as the bits of a slice, is put there, too. If there is no room the batch is copied, as
// by Send. The dictionaries are always copied.
//
// After that r takes no other batch. The same one may be sent again, also by other senders of the
// schema: all receivers read the same memory.
func (s *Sender) SendFrom(ctx context.Context, r *Region, rec arrow.RecordBatch) error {
	if r.rec != nil && r.rec != rec || r.buffer.IsZero() || !rec.Schema().Equal(s.schema) {
		return s.Send(ctx, rec) // which may be an error
	}
	fits := false
	err := guardEncode(func() error {
		fits = r.rec == rec || s.settle(r, rec)
		return nil
	})
	if err != nil {
		return err
	}
	if !fits {
		return s.Send(ctx, rec)
	}
	return s.sendBatch(ctx, rec, func() (ipc.Buffer, error) { return r.buffer.Slice(0, r.size), nil })
}

// settle makes what r has the message of the batch. It reports whether there is room.
func (s *Sender) settle(r *Region, rec arrow.RecordBatch) bool {
	m := &s.message
	m.columns(rec)
	used, last := r.used, r.last
	for i := range m.body.parts {
		p := &m.body.parts[i]
		if p.size == 0 {
			p.at = 0
			continue
		}
		if at, ours := offsetIn(p.data, r.mem); ours && p.fill == nil && at%8 == 0 {
			p.at = at
			continue
		}
		dst := r.take(p.size)
		if dst == nil {
			r.used, r.last = used, last
			return false
		}
		p.put(dst)
		p.at, _ = offsetIn(dst, r.mem)
	}
	m.body.size = align(r.used)
	if m.finishBatch(rec); prefixSize+len(m.meta) > len(r.head) {
		r.used, r.last = used, last
		return false
	}
	m.putMeta(r.head)
	rec.Retain()
	r.rec, r.size = rec, len(r.head)+m.body.size
	return true
}
