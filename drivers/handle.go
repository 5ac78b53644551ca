package drivers

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/tandemipc/tandem/ipc"
)

// Sharer is a [Link] that carries buffers and files beside the payload of a frame. What is
// sent with a frame stays the sender's; the link keeps a holder of its own of each buffer until
// the peer has released what it got, or the link has ended.
type Sharer interface {
	Link
	// Shares says what of a frame's attachments the link carries beside it.
	Shares() (buffers, files bool)
	// OnForgotten makes the link call tell for each buffer and each file that came with a frame and
	// that nobody has released, when the garbage collector has found it: with "buffer" or "file", and
	// how many bytes a buffer has. It is called before the first frame is read. tell does not block.
	OnForgotten(tell func(what string, bytes int))
}

// Handle is one attachment of a frame as it is on the wire, 32 bytes, all numbers
// little-endian:
//
//	 0                8        12       16               24               32
//	+----------------+--------+--------+----------------+----------------+
//	| number         | place  | region | offset         | size           |
//	+----------------+--------+--------+----------------+----------------+
//
// Number is what stands for the attachment in the payload. The following is the link's own
// business. Where the link is no [Sharer], region and offset are 0, and size is
// that of a buffer whose bytes follow the payload, in the order of the handles.
type Handle struct {
	Number        uint64
	Place, Region uint32
	Offset, Size  uint64
}

// The size of a [Handle], and the most bytes of handles that a frame has.
const (
	HandleSize = 32
	MaxHandles = (ipc.MaxBuffers + ipc.MaxFiles) * HandleSize
)

// Append appends the encoding of h to dst.
func (h *Handle) Append(dst []byte) []byte {
	dst = slices.Grow(dst, HandleSize)
	dst = binary.LittleEndian.AppendUint64(dst, h.Number)
	dst = binary.LittleEndian.AppendUint32(dst, h.Place)
	dst = binary.LittleEndian.AppendUint32(dst, h.Region)
	dst = binary.LittleEndian.AppendUint64(dst, h.Offset)
	return binary.LittleEndian.AppendUint64(dst, h.Size)
}

// NextHandle takes the first handle from list, which a peer may change meanwhile: it is read
// once.
func NextHandle(list []byte) (h Handle, rest []byte, err error) {
	if len(list) < HandleSize {
		return h, nil, fmt.Errorf("%w: %d bytes of a handle, which has %d", ipc.ErrProtocol, len(list), HandleSize)
	}
	h = Handle{
		Number: binary.LittleEndian.Uint64(list),
		Place:  binary.LittleEndian.Uint32(list[8:]),
		Region: binary.LittleEndian.Uint32(list[12:]),
		Offset: binary.LittleEndian.Uint64(list[16:]),
		Size:   binary.LittleEndian.Uint64(list[24:]),
	}
	return h, list[HandleSize:], nil
}
