package drivers

import (
	"encoding/binary"
	"fmt"

	"github.com/tandemipc/tandem/ipc"
)

// The payload of a frame can hold many items, which travel together:
//
//	 0               8               8+size   multiple of 8
//	+---------------+---------------+--------+------ - -
//	| size          | item          | 0      | next
//	+---------------+---------------+--------+------ - -
//
// So items begin at multiples of 8 of a payload that does.
const (
	// ItemHeader is how many bytes of a payload precede each item.
	ItemHeader = 8
	itemAlign  = 8

	// MaxPacked is how many notifications one frame of [KindNotify] holds at most.
	MaxPacked = 64
)

// ItemSpan returns how many bytes an item of n bytes takes in a payload.
func ItemSpan(n int) int { return ItemHeader + (n+itemAlign-1)&^(itemAlign-1) }

// AppendItem appends an item to dst. The items of one payload begin where it does.
func AppendItem(dst, item []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(len(item)))
	dst = append(dst, item...)
	if n := -len(item) & (itemAlign - 1); n > 0 {
		dst = append(dst, make([]byte, n)...)
	}
	return dst
}

// CloseItem makes the n bytes that lie [ItemHeader] bytes behind dst an item of dst. dst has
// the capacity for it.
func CloseItem(dst []byte, n int) []byte {
	at := len(dst)
	dst = dst[:at+ItemSpan(n)]
	binary.LittleEndian.PutUint64(dst[at:], uint64(n))
	clear(dst[at+ItemHeader+n:])
	return dst
}

// NextItem returns the first item of items and what follows it. items may be hostile, and
// may lie in memory that the peer changes meanwhile: NextItem reads the size once, and
// nothing else. The item is a part of items. It is an error that wraps [ipc.ErrProtocol] if
// there is no item, or one that is cut short.
func NextItem(items []byte) (item, rest []byte, err error) {
	if len(items) >= ItemHeader {
		if size := binary.LittleEndian.Uint64(items); size <= uint64(len(items)-ItemHeader) {
			if span := ItemSpan(int(size)); span <= len(items) {
				return items[ItemHeader : ItemHeader+size : ItemHeader+size], items[span:], nil
			}
		}
	}
	return nil, nil, itemError(items)
}

func itemError(items []byte) error {
	return fmt.Errorf("%w: malformed items: one is cut short, %d bytes before the end", ipc.ErrProtocol, len(items))
}
