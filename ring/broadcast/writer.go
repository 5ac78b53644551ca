package broadcast

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/internal/shared"
	"github.com/tandemipc/tandem/ring/internal/wait"
)

// A Writer writes records into its segment's ring. There are two ways to use it. Copying:
//
//	err := w.Write(tag, payload) // or Append, Append, ..., Publish; or Send
//
// and in place, where the payload is built in the ring itself:
//
//	buf, err := w.TryClaim(1024)
//	n := encode(buf)
//	w.Commit(tag, n) // or w.Abort()
//	w.Publish()
//
// Records become visible to readers by Publish only, all that were committed since the last
// one at once. None of this makes a system call as long as no reader is parked, and none allocates.
//
// A Writer is for one goroutine at a time, except for [Writer.Add], [Writer.Interrupt],
// [Writer.Close] and the methods of [Peer], which any goroutine may call. None of its methods
// may run after the memory is gone.
type Writer struct {
	_ [padding]byte // what else is on the heap is not written by this goroutine

	// published is head.Position, for other goroutines; with inProgress while Publish is at it. It
	// is first: systems of 32 bits align it only here.
	published uint64
	_         [padding - 8]byte

	// What every operation reads.
	words []uint64 // the ring
	data  []byte   // the same memory
	mask  uint64   // size - 1
	size  uint64
	half  uint64 // the largest record, word included

	pos     uint64 // behind the last committed record
	limit   uint64 // what intent says
	first   uint64 // the word of the first unpublished record, 0 if there is none
	head    Point  // behind the last published record: the next record of a reader that has read all
	seq     uint64 // of the record at pos
	claimAt uint64 // position of the outstanding claim: pos, or the ring's next begin
	claimed int    // its bytes of payload, -1 if there is no claim
	scratch []byte // what a claim returns where records cannot be built in place

	peers atomic.Pointer[[]*Peer] // those that are served; nil if there are none. Replaced under mu

	intent *uint64
	space  *uint32 // do we want space?
	epoch  uint32  // of space
	wanted uint32  // the state in space
	step   uint64
	spin   wait.Spinner

	_ [padding]byte // other goroutines write below while the owner works above

	interrupted wait.Failure
	seg         []byte

	waker     waker
	mu        sync.Mutex
	closed    bool
	mark      Point // the newest
	marks     uint64
	places    [MaxReaders]*Peer
	nextPlace int // where to look for a free one first

	_ [padding]byte
}

// inProgress marks published. Positions are multiples of 8.
const inProgress = 1

// NewWriter returns the writer of a segment that was made with [Create], or formatted with
// [Format] and not written since. There is one for each segment. Errors wrap [ErrLayout]. The memory must outlive
// the Writer: see [Writer.Close].
func NewWriter(seg []byte) (*Writer, error) {
	size, start, err := readHeader(seg)
	if err != nil {
		return nil, err
	}
	w := &Writer{
		seg:       seg,
		words:     shared.Of(seg[ControlSize:]),
		data:      seg[ControlSize:],
		mask:      size - 1,
		size:      size,
		half:      size / 2,
		pos:       start.Position,
		limit:     atomic.LoadUint64(shared.At64(seg, offIntent)),
		head:      start,
		seq:       start.Sequence,
		claimed:   -1,
		intent:    shared.At64(seg, offIntent),
		space:     shared.At32(seg, offSpaceWaiting),
		step:      size / maxMarks,
		published: start.Position,
		mark:      start,
		marks:     1,
	}
	w.waker.run = w.wakeReaders
	w.waker.direct = runtime.GOMAXPROCS(0) == 1
	if w.limit != start.Position+wordSize {
		return nil, fmt.Errorf("%w: the segment has been written before", ErrLayout)
	}
	return w, nil
}

// MaxRecord returns the largest payload of one record, in bytes: half the ring less 8. Readers
// that are further behind than the rest of the ring lose records when one of this size is written.
func (w *Writer) MaxRecord() int { return int(w.half - wordSize) }

// Pending reports whether there are committed records that are not published.
func (w *Writer) Pending() bool { return w.first != 0 }

// Point returns where the next record is that will be published: the first one that is pending, or else the next
// one that is committed. A reader that joins there, by [At], reads that record first. Together with what else the
// writer's goroutine knows it is what a layer above needs to tell a reader where to begin.
func (w *Writer) Point() Point { return w.head }

// TryClaim returns n bytes to build the next record's payload in. They hold whatever was there
// before, and belong to the caller until Commit or Abort. On amd64 they lie in the ring: keep
// in mind that readers can see them at once. Elsewhere Commit copies them there.
//
// It does not block. The error is [ErrFull] when there is no room now, a [*ring.SizeError] when
// n exceeds [Writer.MaxRecord]. On ErrFull nothing is published by itself: publish what is
// pending, or there will never be room. Without reliable readers there is always room once all is
// published.
//
// It panics if a claim is outstanding or n is negative.
func (w *Writer) TryClaim(n int) ([]byte, error) {
	pos := w.pos
	at := pos
	off := pos & w.mask
	need := recordSize(uint64(n))
	// need > half comes first: it keeps the sums behind it from overflowing.
	if w.claimed >= 0 || n < 0 || need > w.half || need > w.size-off || need+wordSize > w.limit-pos {
		if err := w.makeRoom(n); err != nil {
			return nil, err
		}
		if off+need > w.size {
			at, off = pos+w.size-off, 0
		}
	}
	w.claimed, w.claimAt = n, at
	if !shared.InPlace {
		if cap(w.scratch) < n {
			w.scratch = make([]byte, n)
		}
		return w.scratch[:n:n], nil
	}
	end := off + wordSize + uint64(n)
	return w.data[off+wordSize : end : end], nil
}

// Commit makes the first n bytes of the claimed memory the next record. Readers see it after
// the next Publish. It panics if no claim is outstanding or n does not lie in it.
func (w *Writer) Commit(tag byte, n int) {
	if n < 0 || n > w.claimed {
		if w.claimed < 0 {
			panic("tandem: broadcast: commit without a claim")
		}
		panic(fmt.Sprintf("tandem: broadcast: commit of %d bytes, %d claimed", n, w.claimed))
	}
	w.claimed = -1
	if !shared.InPlace {
		w.copyIn(w.claimAt, w.scratch[:n])
	}
	w.commit(w.claimAt, tag, uint64(n))
}

// Abort gives the claimed memory back: the next record goes to the same position. It panics
// if no claim is outstanding.
func (w *Writer) Abort() {
	if w.claimed < 0 {
		panic("tandem: broadcast: abort without a claim")
	}
	w.claimed = -1
}

// copyIn copies the payload of a record at position at.
func (w *Writer) copyIn(at uint64, payload []byte) {
	off := at&w.mask + wordSize
	n := uint64(len(payload))
	shared.CopyIn(w.data[off:off+n:off-wordSize+recordSize(n)], payload)
}

// commit puts a record with n bytes of payload, which are there already, at position at: that
// is w.pos, or the ring's next begin.
func (w *Writer) commit(at uint64, tag byte, n uint64) {
	v := word(at, flagReady, tag, n)
	if at != w.pos {
		shared.Store(&w.words[0], v)
		v = word(w.pos, flagReady|flagPad, 0, at-w.pos-wordSize)
	}
	if w.first == 0 {
		w.first = v // stays 0 in the ring until Publish
	} else {
		shared.Store(&w.words[w.pos&w.mask/wordSize], v)
	}
	w.pos = at + recordSize(n)
	w.seq++
}

// Publish makes all committed records visible to readers, by one store, and rings if some are
// parked. It does nothing if none are pending.
//
// It is another goroutine that wakes readers, and then stays awake for a moment in case that there is more to
// publish. If all processors that the process may use are busy, readers are woken when that
// goroutine gets one: when the writer's blocks, for instance.
func (w *Writer) Publish() {
	v := w.first
	if v == 0 {
		return
	}
	pos := w.pos
	shared.Store(&w.words[pos&w.mask/wordSize], 0)
	// SYNC: pairs with Writer.quiesce, which loads this after it has replaced peers, and with the waker.
	// The store of the word comes between this one and the loads of peers and of the waker's state.
	shared.Store(&w.published, pos|inProgress)
	// SYNC: pairs with the load of the word in Reader.Next: who sees v sees the bodies and
	// words of the batch and the zero behind it. Pairs also with Reader.arm, which stores
	// waiting and then looks at the word.
	atomic.StoreUint64(&w.words[w.head.Position&w.mask/wordSize], v)
	w.head = Point{pos, w.seq}
	w.first = 0
	if peers := w.peers.Load(); peers != nil {
		w.ring(*peers)
	}
	shared.Store(&w.published, pos)
}

// Append commits a record with a copy of payload, without publishing it. Errors are those of
// [Writer.TryClaim]. It panics if a claim is outstanding.
func (w *Writer) Append(tag byte, payload []byte) error {
	pos := w.pos
	off := pos & w.mask
	n := uint64(len(payload))
	need := recordSize(n)
	if w.claimed >= 0 || need > w.half || need > w.size-off || need+wordSize > w.limit-pos {
		return w.appendSlow(tag, payload)
	}
	shared.CopyIn(w.data[off+wordSize:off+wordSize+n:off+need], payload)
	v := word(pos, flagReady, tag, n)
	if w.first == 0 {
		w.first = v
	} else {
		shared.Store(&w.words[off/wordSize], v)
	}
	w.pos = pos + need
	w.seq++
	return nil
}

// appendSlow is Append where its fast path does not apply.
//
//go:noinline
func (w *Writer) appendSlow(tag byte, payload []byte) error {
	if err := w.makeRoom(len(payload)); err != nil {
		return err
	}
	w.put(tag, payload)
	return nil
}

// put commits a record for which there is room.
func (w *Writer) put(tag byte, payload []byte) {
	at := w.pos
	n := uint64(len(payload))
	if rest := w.size - at&w.mask; recordSize(n) > rest {
		at += rest
	}
	w.copyIn(at, payload)
	w.commit(at, tag, n)
}

// Write appends a record with a copy of payload and publishes everything committed. It does
// not block. Errors are those of [Writer.TryClaim]; when there is one, nothing was appended or
// published.
func (w *Writer) Write(tag byte, payload []byte) error {
	if err := w.Append(tag, payload); err != nil {
		return err
	}
	w.Publish()
	return nil
}
