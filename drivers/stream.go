package drivers

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tandemipc/tandem/ipc"
)

// Sizes of streams.
const (
	// InitialStreamWindow is how many bytes of items each side takes of a stream before it
	// has said that it takes more.
	InitialStreamWindow = 8 << 10
	// DefaultStreamWindow is how many bytes of items one side takes of a stream, that its
	// reader has not read, where nothing else is said.
	DefaultStreamWindow = 1 << 20
	// MaxStreamWindow is the most that a side may choose.
	MaxStreamWindow = 1 << 30
	// MaxStreamBytes is how many bytes of items cross in one direction of a stream at most.
	MaxStreamBytes = 1 << 62
	// MaxStreams is how many streams one side of a link may have open that it has opened.
	MaxStreams = 16 << 10
	// MaxPiece is the largest payload of a frame of KindItems that is no list of items.
	MaxPiece = 64 << 10
	// MaxGathered is the largest payload of a frame of KindItems that is a list of items.
	MaxGathered = 4 << 10
)

// What the payload of a frame of [KindItems] is besides a list of items, in the place of the
// method.
const (
	ItemWhole uint64 = 1 // one item, or the last piece of one
	ItemPiece uint64 = 2 // a piece of an item; the next frame of the stream has more of it
)

// ItemsCost returns what a frame of [KindItems] counts for in the window of its stream.
func ItemsCost(f *Frame) int64 {
	if f.Method == 0 {
		return int64(len(f.Payload))
	}
	return int64(ItemSpan(len(f.Payload)))
}

// Opening is the payload of a frame of [KindOpen]: how many bytes of items its sender takes,
// and the items that it sends with it, at most [InitialStreamWindow] of them:
//
//	 63       62                0 63
//	+--------+-------------------+------ - -
//	| Sent   | Window            | Items
//	+--------+-------------------+------ - -
type Opening struct {
	Window int64
	Sent   bool // there are no further items
	Items  []byte
}

const (
	openingSent = 1 << 63
	// OpeningHeader is how many bytes of the payload precede the items.
	OpeningHeader = 8
)

// AppendOpening appends what is before the items of o to dst.
func AppendOpening(dst []byte, o *Opening) []byte {
	word := uint64(o.Window)
	if o.Sent {
		word |= openingSent
	}
	return binary.LittleEndian.AppendUint64(dst, word)
}

// ParseOpening takes the payload of a frame of [KindOpen] apart. It may be hostile. The items
// are a part of payload.
func ParseOpening(payload []byte) (o Opening, err error) {
	if len(payload) < 8 {
		return o, fmt.Errorf("%w: malformed frame: an opening of %d bytes", ipc.ErrProtocol, len(payload))
	}
	word := binary.LittleEndian.Uint64(payload)
	o = Opening{int64(word &^ openingSent), word&openingSent != 0, payload[8:]}
	if o.Window < InitialStreamWindow || o.Window > MaxStreamWindow {
		return o, fmt.Errorf("%w: malformed frame: a stream's window of %d bytes", ipc.ErrProtocol, o.Window)
	}
	if len(o.Items)%itemAlign != 0 {
		return o, fmt.Errorf("%w: malformed frame: an opening with %d bytes of items", ipc.ErrProtocol, len(o.Items))
	}
	if len(o.Items) > InitialStreamWindow {
		return o, fmt.Errorf("%w: malformed frame: an opening with %d bytes of items, at most %d are allowed", ipc.ErrProtocol, len(o.Items), InitialStreamWindow)
	}
	return o, nil
}

// The first byte of the payload of a frame of [KindEnd] says what ends. After EndFailed
// comes an error, as in a frame of [KindError].
const (
	EndSent     byte = 0 // its sender sends no further items of the stream
	EndReturned byte = 1 // the handler has returned, and the stream is over
	EndFailed   byte = 2 // the handler has failed, and the stream is over
	EndGivenUp  byte = 3 // the side that opened the stream has given it up
	EndDeadline byte = 4 // the same, because its deadline has passed
	EndTaken    byte = 5 // the handler takes no further items; what it sends is to come
)

// ParseWindow returns how many bytes more the sender of a frame of [KindWindow] takes.
func ParseWindow(payload []byte) (int64, error) {
	if len(payload) == 8 {
		if n := binary.LittleEndian.Uint64(payload); n > 0 && n <= math.MaxInt64 {
			return int64(n), nil
		}
	}
	return 0, fmt.Errorf("%w: malformed frame: a window of %d bytes (%x)", ipc.ErrProtocol, len(payload), payload[:min(len(payload), 8)])
}
