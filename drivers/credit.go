package drivers

import (
	"encoding/binary"
	"fmt"

	"github.com/tandemipc/tandem/ipc"
)

// Sizes of the window: how many bytes of requests, and as many of notifications, one side
// of a link takes that it has not finished with. Each message counts for its payload, and
// for [RequestCost] or [NotifyCost]. A sender that has used the window up waits for credit
// ([KindCredit]).
const (
	// DefaultWindow is the size where none is given.
	DefaultWindow = 16 << 20
	// MinWindow and MaxWindow are the least and the largest size that a side may choose.
	MinWindow = 64 << 10
	MaxWindow = 1 << 30
)

// What a message counts for in a window besides its payload, in bytes. A request may have
// a goroutine until its handler returns, which takes several KiB; a notification waits for
// its turn.
const (
	RequestCost = 2 << 10
	NotifyCost  = 256
)

// creditSize is the size of the payload of a frame of KindCredit.
const creditSize = 16

// AppendCredit appends the payload of a frame of [KindCredit] to dst: how many bytes of
// requests and of notifications its sender has finished with since its last such frame.
func AppendCredit(dst []byte, requests, notifications uint64) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, requests)
	return binary.LittleEndian.AppendUint64(dst, notifications)
}

// ParseCredit decodes the payload of a frame of [KindCredit].
func ParseCredit(payload []byte) (requests, notifications uint64, err error) {
	if len(payload) != creditSize {
		return 0, 0, fmt.Errorf("%w: credit of %d bytes, not %d", ipc.ErrProtocol, len(payload), creditSize)
	}
	return binary.LittleEndian.Uint64(payload), binary.LittleEndian.Uint64(payload[8:]), nil
}

// The reasons of a frame of [KindCancel], in the one byte of its payload. A frame without
// payload stands for ReasonGivenUp.
const (
	// ReasonGivenUp: the caller does not wait any more.
	ReasonGivenUp byte = 0
	// ReasonDeadline: the deadline of the call has passed.
	ReasonDeadline byte = 1
)
