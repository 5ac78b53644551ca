package flow

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/tandemipc/tandem/ipc"
)

// A frame is one NATS message:
//
//	 0      1              9                 17
//	+------+--------------+-----------------+------- - -
//	| kind | number       | granted         | body
//	+------+--------------+-----------------+------- - -
//
// The frames of one direction are numbered from 1, so that one that is lost, doubled or late is
// noticed. Granted is how many bytes of frames the sender of this one takes in all.
const header = 17

// The kinds of frames.
const (
	kindAccept byte = 1 // the first frame of the side that accepts; the body is the subject of its flow
	kindItems  byte = 2 // the body is a list of items, or of pieces
	kindNote   byte = 3 // the body is a note
	kindAlive  byte = 4 // its sender lives, or takes more
	kindSent   byte = 5 // its sender sends no further items
	kindDeaf   byte = 6 // its sender takes no further items; what it sends is to come
	kindEnd    byte = 7 // its sender has ended the flow, after all that it has sent
	kindAbort  byte = 8 // its sender gives the flow up; the body is an error
)

const (
	// Initial is how many bytes of frames each side takes at first, at least.
	Initial = 64 << 10
	// Frame is the size of the largest frame that counts in windows. A receiver that has read
	// everything has granted half of a window at least, and that has to be enough for one.
	Frame = Initial/2 - frameCost
	// frameCost is what a frame counts for in windows, besides its size.
	frameCost = 256
)

// cost is what a frame of n bytes counts for.
func cost(n int) int64 { return int64(n) + frameCost }

// frame is one that has come.
type frame struct {
	kind    byte
	number  uint64
	granted int64
	body    []byte // a part of the message
}

// parseFrame takes a message apart. It may be hostile.
func parseFrame(b []byte) (f frame, err error) {
	if len(b) < header {
		return f, fmt.Errorf("%w: a frame of %d bytes", ipc.ErrProtocol, len(b))
	}
	granted := binary.LittleEndian.Uint64(b[9:])
	if granted > math.MaxInt64/2 {
		return f, fmt.Errorf("%w: a frame that grants %d bytes", ipc.ErrProtocol, granted)
	}
	return frame{b[0], binary.LittleEndian.Uint64(b[1:]), int64(granted), b[header:]}, nil
}

// putHeader writes the header of a frame into the beginning of b.
func putHeader(b []byte, kind byte, number uint64, granted int64) {
	b[0] = kind
	binary.LittleEndian.PutUint64(b[1:], number)
	binary.LittleEndian.PutUint64(b[9:], uint64(granted))
}

// An item is its length in four bytes, with flags in their highest bits, and the item.
const itemHeader = 4

// flags say what an item is.
type flags uint32

const (
	piece    flags = 1 << 31 // the next one belongs to the same item
	attached flags = 1 << 30 // see [Flow.Attached]; of an item in pieces the last one says it
	anyFlag        = piece | attached
)

// appendItem appends an item, or a piece of one.
func appendItem(dst, item []byte, as flags) []byte {
	return append(binary.LittleEndian.AppendUint32(dst, uint32(len(item))|uint32(as)), item...)
}

// nextItem returns the first item of a list, and the others. It may be hostile.
func nextItem(b []byte) (item, rest []byte, as flags, err error) {
	if len(b) >= itemHeader {
		word := flags(binary.LittleEndian.Uint32(b))
		if n := int(word &^ anyFlag); n <= len(b)-itemHeader {
			end := itemHeader + n
			return b[itemHeader:end:end], b[end:], word & anyFlag, nil
		}
	}
	return nil, nil, 0, fmt.Errorf("%w: an item that is longer than its frame", ipc.ErrProtocol)
}

// The body of a frame of kindEnd is the length of a note in four bytes, the note, and an error if
// there is one. The highest bit of the length says that the error is about who answers, which is gone.

// appendEnd appends the body of an end, up to the error.
func appendEnd(dst, note []byte, gone bool) []byte {
	var as flags
	if gone {
		as = piece
	}
	return appendItem(dst, note, as)
}

// parseEnd takes the body of an end apart. It may be hostile.
func parseEnd(b []byte) (note []byte, failure error, err error) {
	note, rest, as, err := nextItem(b)
	gone := as == piece
	switch {
	case err != nil || as&attached != 0 || gone && len(rest) == 0:
		return nil, nil, fmt.Errorf("%w: an end that is malformed", ipc.ErrProtocol)
	case gone:
		return note, fmt.Errorf("%w: %w", ipc.ErrPeerGone, ipc.ParseError(rest)), nil
	case len(rest) > 0:
		return note, ipc.ParseError(rest), nil
	}
	return note, io.EOF, nil
}
