package latest

import (
	"fmt"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/internal/shared"
)

// A Writer stores values into a cell. There is one for each cell, and one goroutine at a time
// may use it.
type Writer struct {
	mem []byte
	geometry
	version         uint64
	writing, latest *uint64
}

// NewWriter formats memory as a cell for values of size bytes, and returns its writer. The
// number of slots is a power of two, usually that of [Slots]; tag is anything that tells
// readers what the value is. The memory has at least [MemorySize] bytes, starts at a multiple
// of 8, and outlives the Writer; no Reader has it yet. The first value is size zeros, of
// version 0. Errors wrap [ErrLayout].
func NewWriter(mem []byte, size, slots int, tag uint64) (*Writer, error) {
	g, err := newGeometry(uint64(size), uint64(slots))
	if err != nil {
		return nil, err
	}
	if err := checkMemory(mem, g.memory()); err != nil {
		return nil, err
	}
	w := &Writer{mem: mem, geometry: g, writing: shared.At64(mem, offWriting), latest: shared.At64(mem, offLatest)}
	atomic.StoreUint64(w.writing, 0)
	atomic.StoreUint64(w.latest, 0)
	shared.CopyIn(g.slot(mem, 0), make([]byte, size))
	writeHeader(mem, cellMagic, uint64(g.slots), uint64(g.size), tag)
	return w, nil
}

// Store makes p the latest value, and returns its version, one more than that of the last.
// It never waits. A Load that begins after Store has returned finds this value or a later
// one. Store is sequentially consistent, as atomic stores are. If p has not the size of the
// values, the error wraps [ErrSize] and nothing is stored.
func (w *Writer) Store(p []byte) (version uint64, err error) {
	if len(p) != w.size {
		return w.version, fmt.Errorf("%w: %d bytes to store, want %d", ErrSize, len(p), w.size)
	}
	shared.CopyIn(w.begin(), p)
	w.publish()
	return w.version, nil
}

// begin says that the slot of the next version is no longer what it was, and returns it.
func (w *Writer) begin() []byte {
	w.version++
	// SYNC: pairs with the load of writing in Reader.check. Whoever sees a byte of this
	// version in the slot sees this store.
	atomic.StoreUint64(w.writing, w.version)
	return w.slot(w.mem, w.version)
}

// publish makes the next version the latest.
func (w *Writer) publish() {
	// SYNC: pairs with the load of latest in Reader.Load. Whoever sees this version sees
	// all bytes of it.
	atomic.StoreUint64(w.latest, w.version)
}

// A Reader loads values from a cell that somebody else writes. It trusts nobody: whatever
// the memory contains, Load ends after a bounded number of tries, and touches no other memory. Any number of
// goroutines may use it.
type Reader struct {
	mem []byte
	geometry
	tag             uint64
	writing, latest *uint64
}

// NewReader returns a reader of the cell that is in mem, which may be mapped read-only and
// must outlive the Reader. It checks the header once against the length of the memory, and
// uses its own copy from then on. Errors wrap [ErrLayout].
func NewReader(mem []byte) (*Reader, error) {
	var slots, size, tag uint64
	if err := readHeader(mem, cellMagic, &slots, &size, &tag); err != nil {
		return nil, err
	}
	g, err := newGeometry(size, slots)
	if err != nil {
		return nil, err
	}
	if err := checkMemory(mem, g.memory()); err != nil {
		return nil, err
	}
	return &Reader{mem: mem, geometry: g, tag: tag, writing: shared.At64(mem, offWriting), latest: shared.At64(mem, offLatest)}, nil
}

// Size returns how many bytes a value has.
func (r *Reader) Size() int { return r.size }

// Tag returns the tag that the writer has given to [NewWriter].
func (r *Reader) Tag() uint64 { return r.tag }

// Version returns the version of the latest value, 0 if nothing has been stored yet. It is
// one atomic load.
func (r *Reader) Version() uint64 { return atomic.LoadUint64(r.latest) }

// maxTries bounds what Load does. Each try but the last found that a correct writer has
// stored as many values as there are slots, or one less, meanwhile.
const maxTries = 1000

// Load copies the latest value to dst, which has its size, and returns its version. 0 means
// that nothing has been stored yet; dst is zeros then.
//
// A value is what one Store was given, whole, whatever the writer does meanwhile: writes,
// has died or been stopped in the middle of a Store. The version never falls from one Load to a
// later one. That holds for a correct writer; one that is not can store any bytes anyway, so
// nothing in them is to be trusted more than that.
//
// Load takes no lock and writes nothing. It copies the value once, unless the writer begins
// on the same slot meanwhile. For that the writer has to complete at least slots-2 whole
// Stores during one copy; then Load tries again. So a writer that stores at longer intervals
// than it takes to copy a value never makes it try twice, with 4 slots or more.
//
// Errors wrap [ErrSize]; [ErrCorrupt] if the words are such as no correct writer stores; or
// [ErrOvertaken] after 1000 tries, which takes a writer that stores without a pause on a much faster
// processor, or one that only means to do harm. The contents of dst are undefined then.
func (r *Reader) Load(dst []byte) (version uint64, err error) {
	if len(dst) != r.size {
		return 0, fmt.Errorf("%w: %d bytes to load into, want %d", ErrSize, len(dst), r.size)
	}
	v := atomic.LoadUint64(r.latest)
	for range maxTries {
		shared.CopyOut(dst, r.slot(r.mem, v))
		next, err := r.check(v)
		if err != nil {
			return v, err
		}
		if next == v {
			return v, nil
		}
		v = next
	}
	return v, fmt.Errorf("%w: %d tries", ErrOvertaken, maxTries)
}

// check returns v if what has been copied from its slot is the value of version v, and else
// the version to try next.
func (r *Reader) check(v uint64) (next uint64, err error) {
	// SYNC: pairs with the store of writing in Writer.begin. If a byte that was copied is
	// of a later version, this finds that version or a later one.
	writing := atomic.LoadUint64(r.writing)
	begun := writing - v
	if begun <= 1 {
		return v, nil
	}
	// A correct writer has published each version before it begins on the next.
	latest := atomic.LoadUint64(r.latest)
	if int64(begun) < 0 || int64(latest-writing) < -1 {
		return v, fmt.Errorf("%w: version %d is being stored, and the latest is %d, and was %d before", ErrCorrupt, writing, latest, v)
	}
	if begun < uint64(r.slots) {
		return v, nil
	}
	return latest, nil
}
