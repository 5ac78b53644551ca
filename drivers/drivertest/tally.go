package drivertest

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"

	"github.com/tandemipc/tandem/drivers"
)

// The payload of a frame is a function of its tx and size, so that whoever
// receives it can check every byte without knowing what was sent.
const (
	patternStart = 0x9e3779b97f4a7c15
	patternStep  = 0xbf58476d1ce4e5b9
)

// pattern sets b to the payload that belongs to tx.
func pattern(tx uint64, b []byte) {
	w := (tx + 1) * patternStart
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, w)
		w += patternStep
	}
	for i := range b {
		b[i] = byte(w >> (8 * i))
	}
}

// checkPattern returns an error if b is not the payload that belongs to tx.
func checkPattern(tx uint64, b []byte) error {
	w, size := (tx+1)*patternStart, len(b)
	for ; len(b) >= 8; b = b[8:] {
		if got := binary.LittleEndian.Uint64(b); got != w {
			return fmt.Errorf("frame %d of %d bytes: byte %d: got %#x, want %#x", tx, size, size-len(b), got, w)
		}
		w += patternStep
	}
	for i := range b {
		if b[i] != byte(w>>(8*i)) {
			return fmt.Errorf("frame %d of %d bytes: byte %d: got %#x, want %#x", tx, size, size-len(b)+i, b[i], byte(w>>(8*i)))
		}
	}
	return nil
}

// payload returns a new payload for tx.
func payload(tx uint64, size int) []byte {
	b := make([]byte, size)
	pattern(tx, b)
	return b
}

// tally sums up a sequence of frames; equal tallies mean the same frames in
// the same order.
type tally struct {
	N     int    `cbor:"n"`
	Bytes int    `cbor:"bytes"`
	Sum   uint32 `cbor:"sum"`
	// Missing are the gaps in the sequence of tx, which are where a Send has
	// failed, if each frame was tried once and in turn.
	Missing []uint64 `cbor:"missing"`
	Next    uint64   `cbor:"next"`
	// Wrong is the first thing that was wrong with what was received.
	Wrong string `cbor:"wrong"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sent adds a frame that a link has taken.
func (y *tally) sent(tx uint64, size int) {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], tx)
	binary.LittleEndian.PutUint64(b[8:], uint64(size))
	for ; y.Next < tx && len(y.Missing) < 1000; y.Next++ {
		y.Missing = append(y.Missing, y.Next)
	}
	y.Next = max(y.Next, tx+1)
	y.N++
	y.Bytes += size
	y.Sum = crc32.Update(y.Sum, castagnoli, b[:])
}

// received adds a frame that has arrived, and checks its payload.
func (y *tally) received(f drivers.Frame) {
	if err := checkPattern(f.Tx, f.Payload); err != nil && y.Wrong == "" {
		y.Wrong = err.Error()
	}
	y.sent(f.Tx, len(f.Payload))
}

// sizes yields the sizes of a sequence of frames, alike on both sides.
type sizes struct {
	rand *rand.Rand
	size int
}

// newSizes yields size for ever, or anything from 0 to size if random.
func newSizes(size int, random bool) *sizes {
	s := &sizes{size: size}
	if random {
		s.rand = rand.New(rand.NewPCG(1, uint64(size)))
	}
	return s
}

func (s *sizes) next() int {
	if s.rand == nil {
		return s.size
	}
	return s.rand.IntN(s.size + 1)
}
