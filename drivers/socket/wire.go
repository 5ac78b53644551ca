package socket

import (
	"encoding/binary"
	"fmt"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

const (
	// prefixSize is what precedes each frame: its size, its tag, how many files come with it, and
	// zeros.
	prefixSize = 8

	// wholeWrite is the most bytes that every system writes to a socket either
	// all at once or not at all. A longer frame may be cut when its sender gives
	// up, so it has an end byte that says whether it is good.
	wholeWrite = 2 << 10

	endGood      = 1 // the frame is whole
	endAbandoned = 0 // the sender gave up: what is missing was filled with zeros
)

// kindDetach is the driver's own frame, with a tag that no other frame has: the host
// detaches, and the worker is to stay. It has a tx, 0, and nothing else.
const kindDetach drivers.Kind = 0x40

// endSize returns how many bytes follow a frame of this size.
func endSize(size int) int {
	if prefixSize+size > wholeWrite {
		return 1
	}
	return 0
}

// wireSize returns what a frame of this size takes on the wire.
func wireSize(size int) int { return prefixSize + size + endSize(size) }

// parsePrefix takes a prefix apart that a peer has sent.
func parsePrefix(b []byte, limit int) (size, files int, tag byte, err error) {
	word := binary.LittleEndian.Uint64(b)
	n, tag := uint32(word), byte(word>>32)
	if files = int(word >> 40); files > ipc.MaxFiles {
		return 0, 0, 0, fmt.Errorf("%w: prefix of a frame is %#016x, byte 5 must be at most %d, bytes 6 and 7 must be zero", ipc.ErrProtocol, word, ipc.MaxFiles)
	}
	if uint64(n) > uint64(limit) {
		return 0, 0, 0, fmt.Errorf("%w: peer sends a frame of %d bytes, agreed were at most %d", ipc.ErrProtocol, n, limit)
	}
	return int(n), files, tag, nil
}

func appendPrefix(dst []byte, size, files int, tag byte) []byte {
	return binary.LittleEndian.AppendUint64(dst, uint64(uint32(size))|uint64(tag)<<32|uint64(files)<<40)
}

// parseFrame makes f of a frame of size bytes and its end byte, if it has one. ok is
// false if the sender has abandoned the frame.
func parseFrame(f *drivers.Frame, tag byte, b []byte, size int) (ok bool, err error) {
	if endSize(size) > 0 {
		switch end := b[size]; end {
		case endGood:
		case endAbandoned:
			return false, nil
		default:
			return false, fmt.Errorf("%w: a frame of %d bytes ends with byte %#02x, expected 0 or 1", ipc.ErrProtocol, size, end)
		}
	}
	err = f.Parse(tag, b[:size:size])
	return err == nil, err
}
