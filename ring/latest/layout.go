package latest

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/internal/shared"
)

// A cell is a header, two words, and slots. All of it is in native byte order, and only the
// writer writes it.
//
//	offset  width   word             written when
//	+------+-------+----------------+--------------------------------------------------+
//	| 000h | u64   | magic          | NewWriter, then immutable                        |
//	| 008h | u64   | layout version |                                                  |
//	| 010h | u64   | slots          | a power of two, 2 to MaxSlots                    |
//	| 018h | u64   | size           | of the value, in bytes                           |
//	| 020h | u64   | tag            | the user's: what the value is                    |
//	+------+-------+----------------+--------------------------------------------------+
//	| 080h | u64   | writing        | before a byte of the value of this version       |
//	| 088h | u64   | latest         | after the last byte of the value of this version |
//	+------+-------+----------------+--------------------------------------------------+
//	| 100h | slots, each of size bytes, rounded up to a multiple of 128                |
//	+------+---------------------------------------------------------------------------+
//
// The value of version v lies in slot v modulo the number of slots. Versions count from 1;
// version 0 is the zero value that NewWriter leaves in slot 0.
//
// When nothing is being stored, writing and latest are equal. While a value is being stored,
// and for ever if the writer dies in the middle of it, writing is one more.
//
// Counters are a header and words:
//
//	+------+-------+----------------+--------------------------------------------------+
//	| 000h | u64   | magic          | NewCounters, then immutable                      |
//	| 008h | u64   | layout version |                                                  |
//	| 010h | u64   | counters       |                                                  |
//	| 018h | u64   | stride         | 8 or 128 bytes from one to the next              |
//	+------+-------+----------------+--------------------------------------------------+
//	| 080h | u64   | counter 0      | Add, Store                                       |
//	|      | ...   |                |                                                  |
//	+------+-------+----------------+--------------------------------------------------+
const (
	// LayoutVersion is the version of both layouts.
	LayoutVersion = 1

	// MaxSize is the size in bytes of the largest value.
	MaxSize = 64 << 20

	// MinSlots and MaxSlots bound the number of slots.
	MinSlots = 2
	MaxSlots = 1 << 10

	// MaxCounters is how many counters there may be.
	MaxCounters = 1 << 20

	cellMagic     = 0x31_6574_616c_646e_74 // "tndlate1" in little-endian order
	countersMagic = 0x31_746e_6363_646e_74 // "tndccnt1"
)

const (
	// padding keeps what is written together, and apart from the rest: lines of 64 bytes
	// are fetched in pairs.
	padding = 128

	offMagic   = 0x00
	offVersion = 0x08
	// cells
	offSlots   = 0x10
	offSize    = 0x18
	offTag     = 0x20
	offWriting = padding
	offLatest  = padding + 8
	offValues  = 2 * padding
	// counters
	offCounters = 0x10
	offStride   = 0x18
	offWords    = padding
)

// geometry is where things lie in a cell.
type geometry struct {
	slots, size, stride int
}

func newGeometry(size, slots uint64) (geometry, error) {
	switch {
	case size < 1 || size > MaxSize:
		return geometry{}, fmt.Errorf("%w: a value of %d bytes, want 1 to %d", ErrLayout, size, MaxSize)
	case slots < MinSlots || slots > MaxSlots || bits.OnesCount64(slots) != 1:
		return geometry{}, fmt.Errorf("%w: %d slots, want a power of two from %d to %d", ErrLayout, slots, MinSlots, MaxSlots)
	}
	g := geometry{slots: int(slots), size: int(size), stride: roundUp(int(size), padding)}
	if g.slots > (maxMemory-offValues)/g.stride {
		return geometry{}, fmt.Errorf("%w: %d slots of %d bytes, want less than %d bytes altogether", ErrLayout, slots, size, maxMemory)
	}
	return g, nil
}

// maxMemory bounds the memory of a cell. It fits an int everywhere.
const maxMemory = 1 << 30

func (g geometry) memory() int { return offValues + g.slots*g.stride }

// slot returns the memory of the value of a version.
func (g geometry) slot(mem []byte, version uint64) []byte {
	off := offValues + int(version&uint64(g.slots-1))*g.stride
	return mem[off : off+g.size : off+g.stride] // the padding is there for whole words
}

func roundUp(n, to int) int { return (n + to - 1) &^ (to - 1) }

// Slots returns how many slots suit a value of size bytes: as many as fit a page, and four at
// least.
func Slots(size int) int {
	const page, least, most = 4096, 4, 16
	n := (page - offValues) / roundUp(max(size, 1), padding)
	return min(max(1<<max(bits.Len(uint(n))-1, 0), least), most)
}

// MemorySize returns how many bytes of memory a cell takes whose values have size bytes.
// Errors wrap [ErrLayout].
func MemorySize(size, slots int) (int, error) {
	g, err := newGeometry(uint64(size), uint64(slots))
	if err != nil {
		return 0, err
	}
	return g.memory(), nil
}

// CountersSize returns how many bytes of memory n counters take. With packed they lie side by
// side. Otherwise each has 128 bytes to itself, so that goroutines which add to different
// ones do not slow each other. Errors wrap [ErrLayout].
func CountersSize(n int, packed bool) (int, error) {
	return countersMemory(uint64(n), uint64(strideOf(packed)))
}

func strideOf(packed bool) int {
	if packed {
		return 8
	}
	return padding
}

func countersMemory(n, stride uint64) (int, error) {
	switch {
	case n < 1 || n > MaxCounters:
		return 0, fmt.Errorf("%w: %d counters, want 1 to %d", ErrLayout, n, MaxCounters)
	case stride != 8 && stride != padding:
		return 0, fmt.Errorf("%w: a counter each %d bytes, want 8 or %d", ErrLayout, stride, padding)
	}
	return offWords + int(n*stride), nil
}

// checkMemory reports memory in which not even a header can be.
func checkMemory(mem []byte, need int) error {
	if len(mem) < need {
		return fmt.Errorf("%w: memory of %d bytes, want at least %d", ErrLayout, len(mem), need)
	}
	if a := shared.Address(mem) % 8; a != 0 {
		return fmt.Errorf("%w: the memory starts %d bytes behind a multiple of 8", ErrLayout, a)
	}
	return nil
}

// writeHeader stores the words of a header, the magic last.
func writeHeader(mem []byte, magic uint64, words ...uint64) {
	atomic.StoreUint64(shared.At64(mem, offMagic), 0)
	atomic.StoreUint64(shared.At64(mem, offVersion), LayoutVersion)
	for i, w := range words {
		atomic.StoreUint64(shared.At64(mem, offVersion+8+8*i), w)
	}
	atomic.StoreUint64(shared.At64(mem, offMagic), magic)
}

// readHeader loads each word of a header once, and checks the first two.
func readHeader(mem []byte, magic uint64, words ...*uint64) error {
	if err := checkMemory(mem, padding); err != nil {
		return err
	}
	if m := atomic.LoadUint64(shared.At64(mem, offMagic)); m != magic {
		return fmt.Errorf("%w: magic %#x, want %#x", ErrLayout, m, magic)
	}
	if v := atomic.LoadUint64(shared.At64(mem, offVersion)); v != LayoutVersion {
		return fmt.Errorf("%w: layout version %d, want %d", ErrLayout, v, LayoutVersion)
	}
	for i, w := range words {
		*w = atomic.LoadUint64(shared.At64(mem, offVersion+8+8*i))
	}
	return nil
}
