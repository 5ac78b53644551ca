package drivers

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// Kind says what a frame is.
type Kind uint8

// The kinds of frames.
const (
	KindRequest  Kind = 1  // calls a method; answered by a response or an error
	KindResponse Kind = 2  // the result of a request
	KindError    Kind = 3  // the failure of a request
	KindNotify   Kind = 4  // calls a method; never answered
	KindCancel   Kind = 5  // the caller of a request does not wait any more
	KindOpen     Kind = 6  // opens a stream, with its first item perhaps: see [Opening]
	KindItems    Kind = 7  // items of a stream, or a part of one: see [ItemWhole]
	KindWindow   Kind = 8  // the sender takes more bytes of a stream's items
	KindEnd      Kind = 9  // ends a stream, in one direction or both: see [EndSent]
	KindGoodbye  Kind = 10 // the sender wants to end the link in good order
	KindResume   Kind = 11 // numbers a link, or asks for an answer of an earlier one
	KindPing     Kind = 12 // asks for a sign of life
	KindPong     Kind = 13 // is one
	KindCredit   Kind = 14 // gives a part of the window back to the sender of requests
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case KindRequest:
		return "request"
	case KindResponse:
		return "response"
	case KindError:
		return "error"
	case KindNotify:
		return "notify"
	case KindCancel:
		return "cancel"
	case KindOpen:
		return "open"
	case KindItems:
		return "items"
	case KindWindow:
		return "window"
	case KindEnd:
		return "end"
	case KindGoodbye:
		return "goodbye"
	case KindResume:
		return "resume"
	case KindPing:
		return "ping"
	case KindPong:
		return "pong"
	case KindCredit:
		return "credit"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Frame is one message on a [Link].
//
// On the wire it is a tag of one byte, which the link carries in its own
// framing, followed by a header and the payload. All numbers are little-endian:
//
//	tag     bit 0-3  kind
//	        bit 4    a method follows tx
//	        bit 5    extensions follow
//	        bit 6-7  zero
//
//	 0               8               16      18
//	+---------------+---------------+-------+------------+---------+
//	| tx            | method, if    | size  | extensions | payload |
//	|               | bit 4         | if bit 5           |         |
//	+---------------+---------------+-------+------------+---------+
//
// Extensions are a list of {type u8, size u16, value}; size counts all of them
// in bytes. Those of unknown type are skipped. Type 1 is the time that remains
// to the caller, in nanoseconds, u64. Types 2 and 3 are metadata: see [Metadata]. Type 4 says
// what is attached to the frame: see [Handle].
type Frame struct {
	Kind Kind
	// Owned says of a received frame that the receiver may keep Payload. It is
	// ignored when sending.
	Owned bool
	// More says of a received frame that the next one is here already. If that
	// would take effort to find out it is not set.
	More bool
	// Tx pairs a request with its answer. Hosts use even ones, workers odd ones. Of a
	// frame of KindNotify it is 0, or says how many notifications the payload holds, as
	// items (see [AppendItem]): at most MaxPacked.
	Tx uint64
	// Method is the id of the method, or 0. Of a frame of KindItems it says how the payload
	// holds them: 0 (see [AppendItem]), [ItemWhole] or [ItemPiece].
	Method uint64
	// Remaining is how long the caller will wait from now on. 0 stands for the timeout
	// that both sides know from the startup data, and math.MaxInt64 for no timeout.
	Remaining time.Duration
	// Payload is the encoded request, response or error.
	Payload []byte
	// Meta is the metadata, or nil. Nobody changes it once it is in a frame.
	Meta *Metadata
	// Attached are the buffers and files that travel beside the frame, or nil. Only a link
	// that is a [Sharer] takes or yields them. A received frame has them for its receiver, who takes them
	// out, or else releases them.
	Attached *ipc.Attachments
	// Handles says on the wire what is attached: a list of [Handle], encoded. The link writes
	// it for Attached, and the link's user where the link is no Sharer. Of a received frame it
	// is valid for as long as Payload.
	Handles []byte
	// Inline is how many bytes of buffers the payload of a received frame had behind its end.
	Inline int
}

const (
	tagKind      = 0x0f
	tagMethod    = 0x10
	tagExtension = 0x20

	extRemaining = 1
	extHeader    = 2
	extTrailer   = 3
	extHandles   = 4

	extPrefix     = 3 // type and size
	remainingSize = 8

	// MaxHeader is the largest header that AppendHeader makes, in bytes, metadata apart.
	MaxHeader = 8 + 8 + 2 + extPrefix + remainingSize
)

// Tag returns the byte that the link carries beside the frame.
func (f *Frame) Tag() byte {
	t := byte(f.Kind)
	if f.Method != 0 {
		t |= tagMethod
	}
	if f.Remaining > 0 || f.Meta != nil || len(f.Handles) > 0 {
		t |= tagExtension
	}
	return t
}

// AppendHeader appends the header of f, all but the payload, to dst. It adds
// at most MaxHeader bytes, those of the metadata ([Metadata.EncodedSize]), and Handles.
func (f *Frame) AppendHeader(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, f.Tx)
	if f.Method != 0 {
		dst = binary.LittleEndian.AppendUint64(dst, f.Method)
	}
	if f.Meta != nil || len(f.Handles) > 0 {
		size := f.Meta.EncodedSize()
		if f.Remaining > 0 {
			size += extPrefix + remainingSize
		}
		if len(f.Handles) > 0 {
			size += extPrefix + len(f.Handles)
		}
		dst = f.appendRemaining(binary.LittleEndian.AppendUint16(dst, uint16(size)))
		if len(f.Handles) > 0 {
			dst = append(dst, extHandles)
			dst = binary.LittleEndian.AppendUint16(dst, uint16(len(f.Handles)))
			dst = append(dst, f.Handles...)
		}
		if f.Meta == nil {
			return dst
		}
		return f.Meta.append(dst)
	}
	if f.Remaining > 0 {
		dst = f.appendRemaining(append(dst, extPrefix+remainingSize, 0))
	}
	return dst
}

// appendRemaining appends the extension of the remaining time, if there is one.
func (f *Frame) appendRemaining(dst []byte) []byte {
	if f.Remaining > 0 {
		dst = append(dst, extRemaining, remainingSize, 0)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(f.Remaining))
	}
	return dst
}

// Parse takes a frame apart, and sets all fields of f. Its Payload is a part of body. body
// may be hostile, and may lie in memory that the peer changes meanwhile: Parse reads each
// byte of the header once, and none of the payload. If Parse fails f is undefined.
func (f *Frame) Parse(tag byte, body []byte) error {
	f.Kind, f.Method, f.Remaining, f.Owned, f.More = Kind(tag&tagKind), 0, 0, false, false
	if f.Meta != nil {
		f.Meta = nil
	}
	if f.Handles != nil {
		f.Handles, f.Inline, f.Attached = nil, 0, nil
	}
	if tag&^(tagKind|tagMethod|tagExtension) != 0 {
		return frameError(tag, body, "reserved bits of the tag are set")
	}
	if len(body) < 8 {
		return frameError(tag, body, "no room for tx")
	}
	f.Tx = binary.LittleEndian.Uint64(body)
	body = body[8:]
	if tag&tagMethod != 0 {
		if len(body) < 8 {
			return frameError(tag, body, "no room for the method")
		}
		f.Method = binary.LittleEndian.Uint64(body)
		body = body[8:]
	}
	if tag&tagExtension != 0 {
		if len(body) < 2 {
			return frameError(tag, body, "no room for the size of the extensions")
		}
		n := int(binary.LittleEndian.Uint16(body))
		body = body[2:]
		if n > len(body) {
			return frameError(tag, body, fmt.Sprintf("extensions of %d bytes in %d", n, len(body)))
		}
		if err := f.parseExtensions(tag, body[:n]); err != nil {
			return err
		}
		body = body[n:]
	}
	f.Payload = body
	return nil
}

func (f *Frame) parseExtensions(tag byte, ext []byte) error {
	for len(ext) > 0 {
		if len(ext) < extPrefix {
			return frameError(tag, ext, "an extension is cut short")
		}
		kind, n := ext[0], int(binary.LittleEndian.Uint16(ext[1:]))
		ext = ext[extPrefix:]
		if n > len(ext) {
			return frameError(tag, ext, fmt.Sprintf("extension %d of %d bytes in %d", kind, n, len(ext)))
		}
		switch kind {
		case extRemaining:
			if n != remainingSize {
				return frameError(tag, ext, fmt.Sprintf("remaining time of %d bytes, not 8", n))
			}
			d := time.Duration(binary.LittleEndian.Uint64(ext))
			if d <= 0 {
				return frameError(tag, ext, fmt.Sprintf("remaining time of %d ns", d))
			}
			f.Remaining = d
		case extHeader, extTrailer:
			if f.Meta == nil {
				f.Meta = new(Metadata)
			}
			if err := f.Meta.parse(kind, ext[:n]); err != nil {
				return frameError(tag, ext, err.Error())
			}
		case extHandles:
			if f.Handles != nil || n == 0 || n > MaxHandles || n%HandleSize != 0 {
				return frameError(tag, ext, fmt.Sprintf("handles of %d bytes, or for the second time", n))
			}
			if !f.mayHaveHandles() {
				return frameError(tag, ext, fmt.Sprintf("handles with a frame of kind %v", f.Kind))
			}
			f.Handles = ext[:n:n]
		}
		ext = ext[n:]
	}
	return nil
}

// mayHaveHandles reports whether something may be attached to the frame: a message, and the last
// piece of an item. Several notifications in one frame may not, which is their receiver's to say.
func (f *Frame) mayHaveHandles() bool {
	switch f.Kind {
	case KindRequest, KindResponse, KindNotify:
		return true
	case KindItems:
		return f.Method == ItemWhole
	}
	return false
}

func frameError(tag byte, rest []byte, what string) error {
	return fmt.Errorf("%w: malformed frame, tag %#02x, %d bytes left: %s", ipc.ErrProtocol, tag, len(rest), what)
}
