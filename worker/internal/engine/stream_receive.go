package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/bulk"
)

// streamIn is what a stream has received. What the peer may send is bounded by a window of
// bytes, which begins small. It grows while the reader reads, within what all streams of the
// session may have together.
type streamIn struct {
	// Guarded by Stream.mu.
	chunks   []*chunk // from index first on those that nobody has read yet
	first    int
	begun    bool              // the last frame was a piece, and more of its item follows
	ended    bool              // the peer sends no further items
	deaf     bool              // the handler takes no further items
	granted  int64             // how many bytes the peer may send in all
	received int64             // of these
	limit    int64             // the window: of what was received and not read
	kept     int64             // of memory for items in pieces, beside the window
	waiter   waitPlace         // of the goroutine that receives
	headed   bool              // metadata has come with items, which it does once
	meta     *drivers.Metadata // that came so and nobody has got, or nil
	lastMeta *drivers.Metadata // that came with the end, or nil

	// Of the goroutine that receives.
	taken     int64  // bytes that were read in all
	current   *chunk // that is being read, or nil
	rest      []byte // of current, if that holds many items
	assembled []byte // pieces of an item
	frame     drivers.Frame
	grant     [8]byte

	// attached are of the item that was read last, if nobody has taken them; or nil.
	attached atomic.Pointer[ipc.Attachments]
}

// chunk is the payload of one or more frames with items.
type chunk struct {
	b     []byte
	cost  int64
	how   uint32           // as in the frame
	owned bool             // b came from the link
	with  *itemAttachments // of the item that ends here, nil if it has none
}

// How a chunk holds items, 0 for many.
const itemWhole, itemPiece = uint32(drivers.ItemWhole), uint32(drivers.ItemPiece)

// itemAttachments are what is attached to an item, and what says that it has more of them in its
// bytes.
type itemAttachments struct {
	attached *ipc.Attachments
	handles  []byte
}

// chunkPool and largeChunks are chunks to be used again. A small frame gets no memory that a
// large one has had: it may lie there for long.
var chunkPool, largeChunks = sync.Pool{New: newChunk}, sync.Pool{New: newChunk}

func newChunk() any { return new(chunk) }

const (
	// joinedChunk is up to which size frames share a chunk.
	joinedChunk = 16 << 10
	// ownedChunk is from which size a chunk keeps the memory of the link.
	ownedChunk = 2 << 10
	// maxSmallChunk is the largest memory of a chunk that frames share: it may have grown.
	maxSmallChunk = 2 * joinedChunk
	// maxKeptChunk is the largest memory that is kept for later chunks.
	maxKeptChunk = drivers.MaxPiece + 4<<10
)

// put takes what a frame has brought. st.mu is held.
func (in *streamIn) put(f *drivers.Frame, cost int64) {
	how := uint32(f.Method)
	alone := how == itemWhole && !in.begun // an item in no pieces
	in.begun = how == itemPiece
	attached := f.Attached != nil || f.Handles != nil
	if f.Owned && len(f.Payload) >= ownedChunk {
		c := chunkPool.Get().(*chunk)
		old := c.b
		*c = chunk{b: f.Payload, how: how, cost: cost, owned: true}
		if attached {
			c.attach(f)
		}
		if old != nil {
			chunkPool.Put(&chunk{b: old})
		}
		in.push(c)
		return
	}
	if alone && cost <= joinedChunk && !attached {
		how = 0
	}
	var c *chunk
	if n := len(in.chunks); n > in.first {
		c = in.chunks[n-1]
	}
	// A small frame always joins the last, so that what is received takes little more memory
	// than it counts for.
	if c == nil || c.owned || c.cost+cost > joinedChunk || c.how != itemPiece && c.how+how != 0 {
		if cost > joinedChunk {
			c = largeChunks.Get().(*chunk)
		} else {
			c = chunkPool.Get().(*chunk)
		}
		*c = chunk{b: c.b[:0]}
		in.push(c)
	}
	c.how = how
	c.cost += cost
	if alone && how == 0 {
		c.b = drivers.AppendItem(c.b, f.Payload)
	} else {
		c.b = bulk.Append(c.b, f.Payload)
	}
	if attached {
		c.attach(f)
	}
}

// attach takes the attachments of the last frame of an item.
func (c *chunk) attach(f *drivers.Frame) {
	c.with = &itemAttachments{f.Attached, slices.Clone(f.Handles)}
	f.Attached = nil
}

// push puts a chunk behind the others.
func (in *streamIn) push(c *chunk) {
	if len(in.chunks) == cap(in.chunks) && in.first > len(in.chunks)/2 {
		n := copy(in.chunks, in.chunks[in.first:])
		clear(in.chunks[n:])
		in.chunks, in.first = in.chunks[:n], 0
	}
	in.chunks = append(in.chunks, c)
}

// free gives the memory of a chunk back.
func (c *chunk) free(s *Session) {
	if c.with != nil {
		c.with.attached.Release()
		c.with = nil
	}
	if c.owned {
		s.link.Recycle(c.b)
		c.b = nil
	}
	switch {
	case cap(c.b) <= maxSmallChunk:
		chunkPool.Put(c)
	case cap(c.b) <= maxKeptChunk:
		largeChunks.Put(c)
	}
}

// drop forgets what nobody has read. st.mu is held.
func (in *streamIn) drop(s *Session) {
	for _, c := range in.chunks[in.first:] {
		c.free(s)
	}
	in.chunks, in.first = nil, 0
	in.releaseLast()
}

// releaseLast releases the attachments of the item that was read last, unless they were taken.
func (in *streamIn) releaseLast() {
	if in.attached.Load() != nil {
		in.attached.Swap(nil).Release()
	}
}

// holdsAttached reports whether something that has come has attachments. st.mu is held.
func (in *streamIn) holdsAttached() bool { return in.attached.Load() != nil || in.keepsAttached() }

// keepsAttached reports whether there are attachments that nobody has read. st.mu is held.
func (in *streamIn) keepsAttached() bool {
	return slices.ContainsFunc(in.chunks[in.first:], func(c *chunk) bool { return c.with != nil })
}

// Receive implements [ipc.Stream].
func (st *Stream) Receive(ctx context.Context) ([]byte, error) {
	in := &st.in
	in.releaseLast()
	for len(in.rest) == 0 {
		item, whole, err := st.next(ctx)
		if whole && err == nil && in.current.with != nil {
			return st.takeAttached(item)
		}
		if err != nil && in.current != nil && in.current.with != nil { // of an item that is broken
			in.current.with.attached.Release()
			in.current.with = nil
		}
		if whole || err != nil {
			return item, err
		}
	}
	item, rest, err := drivers.NextItem(in.rest)
	if err != nil {
		return nil, st.broken(err)
	}
	in.rest = rest
	return item, nil
}

// next makes the next chunk the current one. If that is a whole item it returns that.
func (st *Stream) next(ctx context.Context) (item []byte, whole bool, err error) {
	in := &st.in
	for {
		c, err := st.nextChunk(ctx)
		if err != nil {
			return nil, false, err
		}
		switch {
		case c.how == 0:
			in.rest = c.b
			return nil, false, nil
		case c.how == itemWhole && len(in.assembled) == 0:
			return c.b, true, nil
		}
		if len(in.assembled)+len(c.b) > st.session.config.MaxMessage {
			return nil, false, st.broken(fmt.Errorf("%w: an item of more than %d bytes", ipc.ErrProtocol, st.session.config.MaxMessage))
		}
		in.assembled = bulk.Append(in.assembled, c.b)
		if c.how == itemWhole {
			item = in.assembled
			in.assembled = in.assembled[:0]
			if !st.keep(int64(cap(item))) {
				in.assembled = nil
			}
			return item, true, nil
		}
	}
}

// keep reports whether memory of this size, in which an item was put together, may be kept for
// the next one. What all streams keep so comes out of the budget of their windows.
func (st *Stream) keep(size int64) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	more := size - st.in.kept
	if st.over || more > 0 && !st.session.streams.budget.take(more) {
		return false
	}
	st.in.kept += max(more, 0)
	return true
}

// nextChunk gives the current chunk back and returns the next one, when it is there.
func (st *Stream) nextChunk(ctx context.Context) (*chunk, error) {
	in, s := &st.in, st.session
	for {
		st.mu.Lock()
		if c := in.current; c != nil {
			in.taken += c.cost
			c.free(s)
		}
		in.current = in.take()
		meta := in.meta
		if in.meta = nil; meta == nil && in.current == nil && st.over {
			meta, in.lastMeta = in.lastMeta, nil
		}
		var more int64
		if !st.over && !in.ended {
			more = in.widen(&s.streams.budget, s.streamWindow)
		}
		ended, err := in.ended, st.endedLocked()
		var stop func()
		if st.over && in.current == nil {
			stop, st.stop = st.stop, nil // all is read
		}
		st.mu.Unlock()
		if stop != nil {
			stop()
		}
		if meta != nil && st.call != nil {
			st.deliver(meta)
		}
		if more > 0 {
			st.sendWindow(ctx, more)
		}
		switch {
		case in.current != nil:
			return in.current, nil
		case err != nil:
			return nil, err
		case ended:
			return nil, io.EOF
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		st.flushNow(ctx) // the peer may wait for it
		if err := st.wait(ctx, &in.waiter, func() bool { return in.first < len(in.chunks) || in.ended }); err != nil {
			return nil, st.whyNot(ctx, err)
		}
	}
}

// take returns the next chunk, or nil. st.mu is held.
func (in *streamIn) take() *chunk {
	if in.first == len(in.chunks) {
		return nil
	}
	c := in.chunks[in.first]
	in.chunks[in.first] = nil
	if in.first++; in.first == len(in.chunks) {
		in.chunks, in.first = in.chunks[:0], 0
	}
	return c
}

// widen returns how many bytes more the peer may send now: none, as long as it may send half
// a window. st.mu is held.
func (in *streamIn) widen(b *streamBudget, window int64) int64 {
	open := in.granted - in.taken
	if open > in.limit/2 {
		return 0
	}
	if wanted := min(2*in.limit, window); wanted > in.limit && b.take(wanted-in.limit) {
		in.limit = wanted
	}
	more := in.limit - open
	in.granted += more
	return more
}

// Widen implements [ipc.WideStream].
func (st *Stream) Widen(ctx context.Context, n int) {
	s, in := st.session, &st.in
	st.mu.Lock()
	more := min(int64(n), s.streamWindow) - in.limit
	if st.over || in.ended || in.deaf || more <= 0 || !s.streams.budget.take(more) {
		st.mu.Unlock()
		return
	}
	in.limit += more
	in.granted += more
	st.mu.Unlock()
	st.sendWindow(ctx, more)
}

// sendWindow tells the peer that it may send more bytes. If that cannot be sent before ctx
// ends, a later call does it.
func (st *Stream) sendWindow(ctx context.Context, more int64) {
	in, s := &st.in, st.session
	binary.LittleEndian.PutUint64(in.grant[:], uint64(more))
	in.frame = drivers.Frame{Kind: drivers.KindWindow, Tx: st.tx, Payload: in.grant[:]}
	if s.link.Send(ctx, &in.frame) != nil { // the reader finds out if the link has ended
		st.mu.Lock()
		in.granted -= more
		st.mu.Unlock()
	}
}

// broken ends a stream whose peer has sent what it must not, and returns the error of that.
func (st *Stream) broken(err error) error {
	if st.handler == nil {
		st.abandon(err)
	} else {
		st.finish(err, true)
	}
	return err
}

// streamBudget is how much larger all windows of a session's streams together may be than
// they are at first.
type streamBudget struct {
	size  int64
	spent atomic.Int64
}

// take takes n from the budget, if that is not more than a quarter of what is left, so that
// something remains for others.
func (b *streamBudget) take(n int64) bool {
	for {
		spent := b.spent.Load()
		if n > (b.size-spent)/4 {
			return false
		}
		if b.spent.CompareAndSwap(spent, spent+n) {
			return true
		}
	}
}

// put gives n back.
func (b *streamBudget) put(n int64) {
	if n > 0 {
		b.spent.Add(-n)
	}
}
