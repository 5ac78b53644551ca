package ipc

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Buffer is memory that crosses to another process as a handle, without being copied: as the
// payload of a method or stream with the codec [Raw], in a field of a value with [CBOR] or
// [JSON], or as a [Handle] with [Fixed]. [Arena.Alloc] makes one. Its maker fills Bytes, and sends it as often as it likes;
// a receiver reads the same memory, which the system lets nobody but the maker write.
//
// The sender can still write the memory while a receiver reads it. A receiver that checks
// what it reads, and uses it after that, has to copy it first ([Buffer.Clone]), unless the
// sender has frozen it ([Buffer.Freeze], [Buffer.Frozen]). A sender that goes on writing, or
// fills a buffer again that it has released, is seen by nobody else.
//
// A Buffer is one holder of its memory. Whoever gets one has to call Release when it is done:
// the memory is free when all holders, in all processes, have done so or have died. There
// are two exceptions. The buffers of a request are released when its handler has returned,
// and a buffer that a handler returns when the response was sent; a handler that keeps one
// uses [Buffer.Retain]. A Buffer that is forgotten is released by the garbage collector
// some time later, which is counted and told: by its arena, or by the client or server that has
// received it.
//
// When the link over which a buffer has come ends, a maker that lives may use its memory again,
// unless it is frozen. What a dead process has made stays as it is until it is released.
//
// What a process has sent on is kept by its maker for that process, and by that process for
// those after it. If it dies the maker may use the memory again, though others have it from there
// still. So who gets its own buffer back from a process that may die keeps its own holder as well.
//
// Copies of a Buffer are the same holder. The zero Buffer holds nothing, has no bytes, and
// may be sent. The methods of a Buffer may be called by any goroutine; Bytes must not be
// used by anybody after Release.
type Buffer struct {
	h  *holder
	id uint64 // of this use of h; of a Buffer that was decoded and not yet found, what stands for it
}

// Backing is the memory of buffers, for those who make it: arenas and drivers.
type Backing interface {
	// Bytes is the memory.
	Bytes() []byte
	// Region is the shared memory that Bytes is a part of, at offset. It is nil if the
	// memory is not shared.
	Region() (r Region, offset int)
	// Frozen reports whether nobody at all can write the memory.
	Frozen() bool
	// Free is called once, when the last holder in this process has released the memory.
	// forgotten says that one of the holders was forgotten, and found by the garbage collector.
	Free(forgotten bool)
}

// Teller is a [Backing] that counts and tells what was forgotten. It does so for copies that [Buffer.Freeze]
// has made of its memory, too.
type Teller interface {
	Backing
	// OnForgotten returns what is called when the garbage collector has found a copy of so many bytes that
	// nobody has released, also after the Backing is free; or nil.
	OnForgotten() (tell func(bytes int))
}

// block is memory with its holders in this process.
type block struct {
	backing   Backing
	holders   atomic.Int64
	forgotten atomic.Bool // a holder was
}

// holding is what a holder has, nil if it was released. It is apart from its holder so that it
// outlives that when the holder is forgotten.
type holding struct {
	block atomic.Pointer[block]
}

// holder is one holder of a block. It is used again after its release; each use has another id.
type holder struct {
	id  atomic.Uint64 // 0 when released
	has *holding
	// mem is the part of the block from offset on.
	mem     []byte
	offset  int
	handled atomic.Bool // it has a Handle
}

var (
	lastID  atomic.Uint64
	holders = sync.Pool{New: func() any {
		h := &holder{has: new(holding)}
		runtime.AddCleanup(h, func(has *holding) { has.release(true) }, h.has)
		return h
	}}
	blocks = sync.Pool{New: func() any { return new(block) }}
)

// NewBuffer makes a Buffer of memory. It is for packages that make or receive such memory. The
// Buffer is the only holder.
func NewBuffer(backing Backing) Buffer {
	b := blocks.Get().(*block)
	b.backing = backing
	mem := backing.Bytes()
	b.holders.Store(1)
	return b.newHolder(mem, 0)
}

// newHolder makes a holder of a part of the block, which was counted.
func (b *block) newHolder(mem []byte, offset int) Buffer {
	h := holders.Get().(*holder)
	h.has.block.Store(b)
	h.mem, h.offset = mem, offset
	id := lastID.Add(1)
	h.id.Store(id)
	return Buffer{h, id}
}

// release lets go of the block, unless that was done before.
func (has *holding) release(forgotten bool) bool {
	b := has.block.Swap(nil)
	if b == nil {
		return false
	}
	b.leave(forgotten)
	return true
}

// held returns the holder of b, and panics if it was released.
func (b Buffer) held(method string) *holder {
	if b.h == nil && b.id != 0 {
		panic("tandem: Buffer." + method + ": the Buffer was decoded by itself, and not as a part of a message")
	}
	if b.h != nil && b.h.id.Load() != b.id {
		panic("tandem: Buffer." + method + " after Release")
	}
	return b.h
}

// Bytes returns the memory, for as long as b is not released. What Bytes returns does not keep b: once
// nobody has b any more it counts as forgotten, and the memory may go. So keep b until
// Release. Only the process that has allocated the buffer may write it; writing in another one, or
// to a frozen one, crashes the process. It panics after Release.
func (b Buffer) Bytes() []byte {
	if h := b.held("Bytes"); h != nil {
		return h.mem
	}
	return nil
}

// Len returns the length of Bytes. It panics after Release.
func (b Buffer) Len() int { return len(b.Bytes()) }

// IsZero reports whether b is the zero Buffer.
func (b Buffer) IsZero() bool { return b == Buffer{} }

// Release says that this holder uses the memory no more. Further calls do nothing.
func (b Buffer) Release() {
	h := b.h
	if h == nil || !h.id.CompareAndSwap(b.id, 0) {
		return
	}
	h.mem = nil
	if h.handled.Load() {
		h.handled.Store(false)
		forgetHandle(b.id)
	}
	h.has.release(false)
	holders.Put(h)
}

// Retain returns another holder of the memory, which has to be released like b. It panics
// after Release, and if another goroutine releases b at the same time.
func (b Buffer) Retain() Buffer { return b.Slice(0, b.Len()) }

// Slice returns another holder, of the bytes from index from up to to. It panics as slicing does,
// and as Retain does.
func (b Buffer) Slice(from, to int) Buffer {
	h := b.held("Slice")
	if h == nil {
		_ = []byte(nil)[from:to]
		return b
	}
	mem, offset := h.mem[from:to:to], h.offset+from
	another, ok := b.share(mem, offset)
	if !ok {
		panic("tandem: Buffer.Slice while it is released")
	}
	return another
}

// Hold is Retain, but fails after Release. It is for packages that pass buffers on, which others
// may release meanwhile.
func (b Buffer) Hold() (another Buffer, ok bool) {
	h := b.h
	if h == nil {
		return b, b.id == 0
	}
	return b.share(h.mem, h.offset)
}

// share adds a holder of a part of the block that b holds, unless b is released. mem and offset are
// of b only if it is not.
func (b Buffer) share(mem []byte, offset int) (another Buffer, ok bool) {
	block := b.h.has.block.Load()
	if block == nil || !block.join() {
		return another, false
	}
	if b.h.id.Load() == b.id && b.h.has.block.Load() == block {
		another = block.newHolder(mem, offset)
		return another, true
	}
	block.leave(false) // that was another use of it
	return another, false
}

// join counts one more holder, if there is one.
func (b *block) join() bool {
	for {
		n := b.holders.Load()
		if n == 0 {
			return false
		}
		if b.holders.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave counts one holder less, and frees the memory if it was the last.
func (b *block) leave(forgotten bool) {
	if forgotten {
		b.forgotten.Store(true) // for whoever is the last
	}
	if b.holders.Add(-1) == 0 {
		backing := b.backing
		b.backing = nil
		if forgotten = b.forgotten.Load(); forgotten {
			b.forgotten.Store(false)
		}
		blocks.Put(b)
		backing.Free(forgotten)
	}
}

// Clone returns a copy of the bytes, which is nobody else's.
func (b Buffer) Clone() []byte {
	defer runtime.KeepAlive(b.h)
	return slices.Clone(b.Bytes())
}

// Frozen reports whether nobody at all can write the memory: see [Buffer.Freeze]. Of a
// received buffer this is what the system says. Bytes that have travelled through a socket
// are the receiver's own memory, and count as frozen.
func (b Buffer) Frozen() bool {
	h := b.held("Frozen")
	if h == nil {
		return true
	}
	return h.has.block.Load().backing.Frozen()
}

// Backing returns the memory that b is a part of, and at which offset b begins in it. It is for
// drivers. It panics after Release.
func (b Buffer) Backing() (backing Backing, offset int) {
	h := b.held("Backing")
	if h == nil {
		return nil, 0
	}
	return h.has.block.Load().backing, h.offset
}
