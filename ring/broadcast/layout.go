package broadcast

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/internal/shared"
)

// The writer's segment is a control area followed by the ring. The writer alone writes it;
// readers map it read-only.
//
//	offset   width  word               written when
//	+------+------+------------------+------------------------------------------------+
//	| 000h | u64  | magic            | Format, then immutable                         |
//	| 008h | u64  | layout version   |                                                |
//	| 010h | u64  | ring size        |                                                |
//	| 018h | u64  | start position   |                                                |
//	| 020h | u64  | start sequence   |                                                |
//	+------+------+------------------+------------------------------------------------+
//	| 080h | u64  | intent           | before a byte of the ring up to it is written  |
//	+------+------+------------------+------------------------------------------------+
//	| 100h | u64  | marks            | a mark was added: how many there have been     |
//	+------+------+------------------+------------------------------------------------+
//	| 180h | u32  | data bell        | there is data for readers that are parked      |
//	+------+------+------------------+------------------------------------------------+
//	| 200h | u32  | space waiting    | the writer starts or stops waiting for space   |
//	+------+------+------------------+------------------------------------------------+
//	| 400h | 64 marks, each the position of a record and its sequence number            |
//	+------+------+------------------+------------------------------------------------+
//	| 1000h| 256 places, each the id of a reader and what it is to the writer           |
//	+------+------+------------------+------------------------------------------------+
//	| 2000h| ring size bytes         | records                                        |
//	+------+-------------------------+------------------------------------------------+
//
// A record is as in package ring: it starts at a multiple of 8 with one word, in native byte
// order, does not wrap, and a PAD covers what is left at the end of the ring.
//
//	 63           48 47   40 39   32 31                             0
//	+---------------+-------+-------+-------------------------------+
//	|     stamp     | flags |  tag  |            length             |
//	+---------------+-------+-------+-------------------------------+
//	|     payload: length bytes, then padding up to a multiple of 8 |
//	+---------------------------------------------------------------+
//
//	flags   bit 0 READY, always set; 1 PAD; the rest zero
//	stamp   bits 3..18 of the record's position
//
// The word at the position where the next record goes is zero: who sees anything else there
// sees a record, or has been lapped. Which of both, intent tells: bytes at a position p
// are what was written for p as long as intent - p is at most the size of the ring. The
// stamp only finds nonsense early; payloads may hold any bytes, and it repeats too soon.
//
// Intent runs ahead of the records, in steps of a 64th of the ring, so that a
// small record costs its own cache line and no other. It is at most the size of the ring ahead of
// the last record that is published. So a reader that has read all has not been lapped.
//
// Records carry no sequence number: readers count. A mark is where a reader can begin to: at the
// time it was added a record had been published up to its position. Marks are at least a step apart, so that
// 64 of them reach over the whole ring, unless the last one would not be kept: that one always
// is. The mark of number i lies in place i modulo 64, and marks count from 0.
//
// A reader's own segment is a page. The reader alone writes it; the writer maps it read-only.
//
//	+------+------+------------------+------------------------------------------------+
//	| 000h | u64  | magic            | FormatReader, then immutable                   |
//	| 008h | u64  | layout version   |                                                |
//	| 010h | u64  | id               | random, not 0                                  |
//	+------+------+------------------+------------------------------------------------+
//	| 080h | u64  | position         | the reader is done with all before it          |
//	+------+------+------------------+------------------------------------------------+
//	| 100h | u32  | data waiting     | the reader starts or stops waiting for data    |
//	+------+------+------------------+------------------------------------------------+
//	| 180h | u32  | space bell       | there is space for a writer that is parked     |
//	+------+------+------------------+------------------------------------------------+
//
// Waiting words hold a state and an epoch, as in package ring.
//
// Positions are byte counts that only grow, modulo 2^64, and so do sequence numbers. They are
// compared by difference only.
const (
	// LayoutVersion is the version of both layouts. Sides with different versions refuse
	// each other.
	LayoutVersion = 1

	// ControlSize is the length in bytes of the control area that precedes the ring in a
	// writer's segment.
	ControlSize = 8192

	// ReaderSize is the length in bytes of a reader's own segment.
	ReaderSize = 4096

	// MinSize and MaxSize bound the size of a ring, in bytes. A size is a power of two.
	MinSize = 4096
	MaxSize = 1 << 30

	// MaxReaders is how many readers with segments a writer serves at a time. Readers
	// without are not counted.
	MaxReaders = 256

	writerMagic = 0x31_7473_6362_646e_74 // "tndbcst1" in little-endian order
	readerMagic = 0x31_7264_7262_646e_74 // "tndbrdr1"
)

// padding keeps words that different sides write or poll apart, as in package ring.
const padding = 128

const (
	offMagic   = 0x00
	offVersion = 0x08

	// The writer's segment.
	offSize         = 0x10
	offStart        = 0x18
	offSequence     = 0x20
	offIntent       = 1 * padding
	offMarks        = 2 * padding
	offDataBell     = 3 * padding
	offSpaceWaiting = 4 * padding
	offMark         = 0x400
	offPlace        = 0x1000

	// A reader's.
	offID          = 0x10
	offPosition    = 1 * padding
	offDataWaiting = 2 * padding
	offSpaceBell   = 3 * padding
)

const (
	maxMarks  = 64
	markSize  = 16
	placeSize = 16
)

// What the writer takes the reader for that has a place.
const (
	placeNone     = 0 // it has none
	placeWatched  = 1 // it is rung for
	placeReliable = 2 // and waited for
	placeCutOff   = 3 // neither any more: until another reader gets the place
)

// Positions of a reader that are none, as those are multiples of 8.
const (
	positionUnset = 1 // has not joined yet
	positionLeft  = 3 // has been closed
)

// The states of a waiting word.
const (
	stateNone    = 0 // not waiting
	stateParked  = 1 // asleep, or about to be: ring the bell
	statePolling = 2 // polling for space: publish the position early, do not ring
	stateMask    = 3
	epochStep    = 4
)

// The flags of a record's word.
const (
	flagReady = 1 << 0 // always set, so that a word is never zero
	flagPad   = 1 << 1 // covers the rest of the ring, no record
)

const (
	wordSize   = 8
	align      = 8
	lengthMask = 1<<32 - 1
	tagShift   = 32
	flagShift  = 40
	stampShift = 48
)

// word makes a record's word. Positions are multiples of 8, hence pos<<(stampShift-3) is the
// stamp in its place.
func word(pos uint64, flags, tag byte, n uint64) uint64 {
	return pos<<(stampShift-3) | uint64(flags)<<flagShift | uint64(tag)<<tagShift | n
}

// recordSize is what a payload of n bytes takes up in the ring.
func recordSize(n uint64) uint64 { return (n + wordSize + align - 1) &^ (align - 1) }

// A Point is a place in the stream of records.
type Point struct {
	// Position is where the record begins, in bytes since the stream began, modulo 2^64.
	Position uint64
	// Sequence is the record's number, modulo 2^64.
	Sequence uint64
}

// SegmentSize returns the length in bytes of a writer's segment whose ring has ringSize
// bytes. The error, which wraps [ErrLayout], says what is wrong with a ringSize that is not a
// power of two from [MinSize] to [MaxSize].
func SegmentSize(ringSize int) (int, error) {
	if ringSize < MinSize || ringSize > MaxSize || bits.OnesCount(uint(ringSize)) != 1 {
		return 0, fmt.Errorf("%w: ring of %d bytes, want a power of two from %d to %d", ErrLayout, ringSize, MinSize, MaxSize)
	}
	return ControlSize + ringSize, nil
}

// Format initialises seg as a writer's segment. The ring's size is len(seg) - [ControlSize].
// The first record will be at start, whose position is a multiple of 8; the zero Point is as
// good as another outside of tests.
//
// seg must start at a multiple of 128 bytes, as mappings do, and heap slices of at least
// [ControlSize] + [MinSize] bytes. Nobody may use it at the same time. Errors wrap [ErrLayout].
func Format(seg []byte, start Point) error {
	size, err := ringSize(seg)
	if err != nil {
		return err
	}
	if start.Position%align != 0 {
		return fmt.Errorf("%w: start position %d, want a multiple of %d", ErrLayout, start.Position, align)
	}
	clear(seg[:ControlSize])
	atomic.StoreUint64(shared.At64(seg, ControlSize+int(start.Position&(size-1))), 0)
	atomic.StoreUint64(shared.At64(seg, offIntent), start.Position+wordSize) // the zero that was just stored
	atomic.StoreUint64(shared.At64(seg, offMark), start.Position)
	atomic.StoreUint64(shared.At64(seg, offMark+8), start.Sequence)
	atomic.StoreUint64(shared.At64(seg, offMarks), 1)
	atomic.StoreUint64(shared.At64(seg, offStart), start.Position)
	atomic.StoreUint64(shared.At64(seg, offSequence), start.Sequence)
	atomic.StoreUint64(shared.At64(seg, offSize), size)
	atomic.StoreUint64(shared.At64(seg, offVersion), LayoutVersion)
	atomic.StoreUint64(shared.At64(seg, offMagic), writerMagic)
	return nil
}

// FormatReader initialises seg as a reader's own segment, with an id that is random. seg
// has [ReaderSize] bytes and starts at a multiple of 128, as mappings and heap slices of that size do.
// Nobody may use it at the same time. Errors wrap [ErrLayout].
func FormatReader(seg []byte) error {
	if err := checkReaderMemory(seg); err != nil {
		return err
	}
	clear(seg)
	atomic.StoreUint64(shared.At64(seg, offPosition), positionUnset)
	atomic.StoreUint64(shared.At64(seg, offID), newID())
	atomic.StoreUint64(shared.At64(seg, offVersion), LayoutVersion)
	atomic.StoreUint64(shared.At64(seg, offMagic), readerMagic)
	return nil
}

func checkAlignment(who string, seg []byte) error {
	if a := shared.Address(seg) % padding; a != 0 {
		return fmt.Errorf("%w: %s starts %d bytes behind a multiple of %d", ErrLayout, who, a, padding)
	}
	return nil
}

// ringSize validates what can be known of a writer's segment without reading it.
func ringSize(seg []byte) (uint64, error) {
	if len(seg) < ControlSize {
		return 0, fmt.Errorf("%w: segment of %d bytes, want at least %d", ErrLayout, len(seg), ControlSize+MinSize)
	}
	if _, err := SegmentSize(len(seg) - ControlSize); err != nil {
		return 0, err
	}
	return uint64(len(seg) - ControlSize), checkAlignment("segment", seg)
}

// checkReaderMemory does the same for a reader's own.
func checkReaderMemory(seg []byte) error {
	if len(seg) != ReaderSize {
		return fmt.Errorf("%w: reader's segment of %d bytes, want %d", ErrLayout, len(seg), ReaderSize)
	}
	return checkAlignment("reader's segment", seg)
}

// checkKind loads magic and version, once.
func checkKind(who string, seg []byte, magic uint64) error {
	if m := atomic.LoadUint64(shared.At64(seg, offMagic)); m != magic {
		return fmt.Errorf("%w: %s has magic %#x, want %#x", ErrLayout, who, m, magic)
	}
	if v := atomic.LoadUint64(shared.At64(seg, offVersion)); v != LayoutVersion {
		return fmt.Errorf("%w: %s has layout version %d, want %d", ErrLayout, who, v, LayoutVersion)
	}
	return nil
}

// readHeader validates the header of a writer's segment and returns what it says.
func readHeader(seg []byte) (size uint64, start Point, err error) {
	have, err := ringSize(seg)
	if err != nil {
		return 0, Point{}, err
	}
	if err := checkKind("segment", seg, writerMagic); err != nil {
		return 0, Point{}, err
	}
	size = atomic.LoadUint64(shared.At64(seg, offSize))
	start = Point{
		Position: atomic.LoadUint64(shared.At64(seg, offStart)),
		Sequence: atomic.LoadUint64(shared.At64(seg, offSequence)),
	}
	switch {
	case size != have:
		return 0, Point{}, fmt.Errorf("%w: segment says its ring has %d bytes, but it has %d", ErrLayout, size, have)
	case start.Position%align != 0:
		return 0, Point{}, fmt.Errorf("%w: segment starts at position %d, want a multiple of %d", ErrLayout, start.Position, align)
	}
	return size, start, nil
}

// readID validates the header of a reader's own segment and returns the id.
func readID(seg []byte) (uint64, error) {
	if err := checkReaderMemory(seg); err != nil {
		return 0, err
	}
	if err := checkKind("reader's segment", seg, readerMagic); err != nil {
		return 0, err
	}
	id := atomic.LoadUint64(shared.At64(seg, offID))
	if id == 0 {
		return 0, fmt.Errorf("%w: reader's segment has id 0", ErrLayout)
	}
	return id, nil
}
