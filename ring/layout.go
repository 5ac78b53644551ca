package ring

import (
	"fmt"
	"math/bits"
	"sync/atomic"
)

// A segment is one control page followed by the ring. Every word in it is
// written by the segment's owner only; the peer maps it read-only.
//
//	offset   width  word               written when
//	+------+------+------------------+------------------------------------------+
//	| 000h | u64  | magic            | Format, then immutable                   |
//	| 008h | u32  | layout version   |                                          |
//	| 010h | u64  | ring size        |                                          |
//	| 018h | u64  | start position   |                                          |
//	+------+------+------------------+------------------------------------------+
//	| 080h | u64  | consumer position| owner has freed the peer's ring up to it |
//	+------+------+------------------+------------------------------------------+
//	| 100h | u32  | data waiting     | owner starts or stops waiting for data   |
//	+------+------+------------------+------------------------------------------+
//	| 180h | u32  | space waiting    | owner starts or stops waiting for space  |
//	+------+------+------------------+------------------------------------------+
//	| 200h | u32  | data bell        | owner published data for a parked peer   |
//	+------+------+------------------+------------------------------------------+
//	| 280h | u32  | space bell       | owner freed space for a parked peer      |
//	+------+------+------------------+------------------------------------------+
//	| 1000h| ring size bytes         | the owner's records                      |
//	+------+-------------------------+------------------------------------------+
//
// There is a (waiting, bell) pair for data and another for space, because a
// process may have a reader and a writer asleep at the same time. One shared
// pair would have to merge their states with a read-modify-write; two words with
// one writer each need plain atomic stores only.
//
// A waiting word holds what the owner wants from the peer and an epoch, new for
// every arming, so that the peer rings once per arming:
//
//	 31                                      2 1   0
//	+-----------------------------------------+-----+
//	|                 epoch                   |state|   0 none, 1 parked, 2 polling
//	+-----------------------------------------+-----+
//
// A record starts at a multiple of 8 with one word, in native byte order:
//
//	 63           48 47   40 39   32 31                             0
//	+---------------+-------+-------+-------------------------------+
//	|     stamp     | flags |  tag  |            length             |
//	+---------------+-------+-------+-------------------------------+
//	|     payload: length bytes, then padding up to a multiple of 8 |
//	+---------------------------------------------------------------+
//
//	length  bytes of payload, without padding; at most size/2 - 8
//	tag     the user's, not interpreted
//	flags   bit 0 READY, always set; 1 PAD; 2 MORE; 3 CONT; the rest zero
//	stamp   bits 3..18 of the record's position
//
// The rule that makes it safe: the word at the producer's published position is
// zero. Since READY is always set, a word of zero means "not yet", and a
// producer makes a record, or a whole batch, visible by storing the word of the
// first one last. Before that store it puts a zero behind the last one, so
// nobody has to clear memory, and what lies beyond may be anything.
//
// Records do not wrap. When one does not fit before the end of the ring, a PAD
// record covers the rest and the record goes to offset 0; both become visible by
// the store of PAD's word.
//
// An empty ring takes every record of up to size/2 - 8 bytes, wherever its
// position is. Let need = 8 + payload rounded up to 8, so need <= size/2, and let
// r be the bytes up to the end of the ring. Without PAD the producer needs need
// + 8 bytes (the zero behind), which is at most size/2 + 8 <= size. With PAD,
// r < need, and both being multiples of 8, r <= need - 8, so it needs
// r + need + 8 <= 2*need <= size.
//
// Positions are byte counts that only grow, modulo 2^64; an offset into the ring
// is a position modulo its size. They are compared by difference only, so it
// does not matter where they start or that they wrap.
const (
	// LayoutVersion is the version of the layout above. Two sides with
	// different versions refuse each other in [Join].
	LayoutVersion = 1

	// ControlSize is the length in bytes of the control area that precedes
	// the ring in a segment.
	ControlSize = 4096

	// MinSize and MaxSize bound the size of a ring, in bytes. A size is a
	// power of two.
	MinSize = 4096
	MaxSize = 1 << 30

	magic = 0x31_676e_6972_646e_74 // "tndring1" in little-endian order
)

// Cache lines are 64 bytes on amd64 and most of arm64, but Intel's spatial
// prefetcher fetches them in pairs and Apple's lines are 128 bytes: two words
// that different sides write or poll share no 128-byte block.
const padding = 128

const (
	offMagic            = 0x000
	offVersion          = 0x008
	offSize             = 0x010
	offStart            = 0x018
	offConsumerPosition = 1 * padding
	offDataWaiting      = 2 * padding
	offSpaceWaiting     = 3 * padding
	offDataBell         = 4 * padding
	offSpaceBell        = 5 * padding
)

// positionUnset is the consumer position of a side that has not joined yet. It
// is no position, as those are multiples of 8.
const positionUnset = 1

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
	flagMore  = 1 << 2 // a piece of a split message, not the last
	flagCont  = 1 << 3 // a piece of a split message, not the first
	flagsAll  = flagReady | flagPad | flagMore | flagCont
)

const (
	wordSize   = 8
	align      = 8
	lengthMask = 1<<32 - 1
	tagShift   = 32
	flagShift  = 40
	stampShift = 48
)

// word makes a record's word. Positions are multiples of 8, hence
// pos<<(stampShift-3) is the stamp in its place.
func word(pos uint64, flags, tag byte, n uint64) uint64 {
	return pos<<(stampShift-3) | uint64(flags)<<flagShift | uint64(tag)<<tagShift | n
}

// recordSize is what a payload of n bytes takes up in the ring.
func recordSize(n uint64) uint64 { return (n + wordSize + align - 1) &^ (align - 1) }

// SegmentSize returns the length in bytes of a segment whose ring has ringSize
// bytes. The error, which wraps [ErrLayout], says what is wrong with a ringSize
// that is not a power of two from [MinSize] to [MaxSize].
func SegmentSize(ringSize int) (int, error) {
	if ringSize < MinSize || ringSize > MaxSize || bits.OnesCount(uint(ringSize)) != 1 {
		return 0, fmt.Errorf("%w: ring of %d bytes, want a power of two from %d to %d", ErrLayout, ringSize, MinSize, MaxSize)
	}
	return ControlSize + ringSize, nil
}

// Format initialises seg as one side's segment: it writes the header and clears
// the rest of the control area and the first record's word. The ring's size is
// len(seg) - [ControlSize]. The first record will have position start, a
// multiple of 8; any value works, and 0 is as good as another outside of tests.
//
// seg must start at a multiple of 128 bytes, as mappings do, and heap slices of
// at least [ControlSize] + [MinSize] bytes. Nobody may use it at the same time.
// Errors wrap [ErrLayout].
func Format(seg []byte, start uint64) error {
	if err := checkMemory("segment", seg); err != nil {
		return err
	}
	if start%align != 0 {
		return fmt.Errorf("%w: start position %d, want a multiple of %d", ErrLayout, start, align)
	}
	clear(seg[:ControlSize])
	size := uint64(len(seg) - ControlSize)
	atomic.StoreUint64(u64At(seg, ControlSize+int(start&(size-1))), 0)
	atomic.StoreUint64(u64At(seg, offConsumerPosition), positionUnset)
	atomic.StoreUint64(u64At(seg, offStart), start)
	atomic.StoreUint64(u64At(seg, offSize), size)
	atomic.StoreUint32(u32At(seg, offVersion), LayoutVersion)
	atomic.StoreUint64(u64At(seg, offMagic), magic)
	return nil
}

// checkMemory validates what can be known of a segment without reading it.
func checkMemory(who string, seg []byte) error {
	if len(seg) < ControlSize {
		return fmt.Errorf("%w: %s of %d bytes, want at least %d", ErrLayout, who, len(seg), ControlSize+MinSize)
	}
	if _, err := SegmentSize(len(seg) - ControlSize); err != nil {
		return fmt.Errorf("%s: %w", who, err)
	}
	if a := address(seg) % padding; a != 0 {
		return fmt.Errorf("%w: %s starts %d bytes behind a multiple of %d", ErrLayout, who, a, padding)
	}
	return nil
}

// header is a private copy of a segment's header.
type header struct {
	magic   uint64
	version uint32
	size    uint64
	start   uint64
}

// readHeader loads every word of the header once and validates the copy: magic,
// then version, then geometry.
func readHeader(who string, seg []byte) (header, error) {
	if err := checkMemory(who, seg); err != nil {
		return header{}, err
	}
	h := header{
		magic:   atomic.LoadUint64(u64At(seg, offMagic)),
		version: atomic.LoadUint32(u32At(seg, offVersion)),
		size:    atomic.LoadUint64(u64At(seg, offSize)),
		start:   atomic.LoadUint64(u64At(seg, offStart)),
	}
	switch have := uint64(len(seg) - ControlSize); {
	case h.magic != magic:
		return header{}, fmt.Errorf("%w: %s has magic %#x, want %#x", ErrLayout, who, h.magic, uint64(magic))
	case h.version != LayoutVersion:
		return header{}, fmt.Errorf("%w: %s has layout version %d, want %d", ErrLayout, who, h.version, LayoutVersion)
	case h.size != have:
		return header{}, fmt.Errorf("%w: %s says its ring has %d bytes, but it has %d", ErrLayout, who, h.size, have)
	case h.start%align != 0:
		return header{}, fmt.Errorf("%w: %s starts at position %d, want a multiple of %d", ErrLayout, who, h.start, align)
	}
	return h, nil
}
