package drivers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// ProtocolVersion is the version of frames and hellos in this package.
const ProtocolVersion = 5

// helloMagic opens every hello: "TANDEM" and two bytes that text transfers break.
const helloMagic = "TANDEM\r\n"

// Size limits of what a peer may send before it is known.
const (
	helloPrelude = 16
	maxHello     = 4096
)

const (
	helloKindHello  = 1
	helloKindRefuse = 2
	helloKindQueue  = 3
	helloKindReady  = 4
)

// ByteOrderMark is how this machine stores the number 0x0102: Fixed payloads
// cross as memory, so both sides have to agree.
var ByteOrderMark = binary.NativeEndian.Uint16([]byte{1, 2})

// Hello is the first message of each side of a link. If the sides differ in a field that
// is marked (=), there is no link.
type Hello struct {
	// Protocol is ProtocolVersion of the sender (=).
	Protocol int `cbor:"-"`
	// Driver and Codec are names (=).
	Driver string `cbor:"1,keyasint"`
	Codec  string `cbor:"2,keyasint"`
	// ByteOrder is the sender's ByteOrderMark (=).
	ByteOrder uint16 `cbor:"3,keyasint"`
	// Layout is the version of the driver's shared layout, 0 if it has none (=).
	Layout int `cbor:"4,keyasint"`
	// MaxMessage is the largest message in bytes that the sender accepts.
	MaxMessage int `cbor:"5,keyasint"`
	// PID is the process id of the sender and StartTime when it started, in
	// the kernel's clock ticks since boot; 0 where the system does not tell.
	PID       int    `cbor:"6,keyasint"`
	StartTime uint64 `cbor:"7,keyasint"`
	// Nonce is a random number that names the sender's run.
	Nonce uint64 `cbor:"8,keyasint"`
	// DriverData is the driver's own.
	DriverData []byte `cbor:"9,keyasint,omitempty"`
	// Window is how many bytes of requests, and as many of notifications, the sender
	// takes that it has not finished with.
	Window int `cbor:"10,keyasint"`
	// CallTimeout is how long a request of either side may take that does not say so itself; 0 is
	// no bound. Only the client of a service says it: a worker knows it from its startup data.
	CallTimeout time.Duration `cbor:"11,keyasint,omitempty"`
}

// A hello on the wire: a prelude of 16 bytes, then the body.
//
//	 0                       8         10        12        14       16
//	+-----------------------+---------+---------+---------+---------+------
//	| "TANDEM\r\n"          | version | kind    | size    | code    | body
//	+-----------------------+---------+---------+---------+---------+------
//
// Numbers are little-endian. Kind 1 is a hello, its body the CBOR map of
// [Hello]; kind 2 is a refusal, its body text for the other side's user; kind 3
// says that hello or refusal will come later; kind 4, after both hellos, that the sender
// has all that the link needs. The bodies of the latter two are empty. The code is that
// of a refusal's reason, and otherwise 0. The prelude never changes between versions.

// AppendHello appends the encoded hello to dst.
func AppendHello(dst []byte, h Hello) ([]byte, error) {
	body, err := ipc.CBOR.Append(nil, &h)
	if err != nil {
		return nil, fmt.Errorf("tandem: encode hello: %w", err)
	}
	if len(body) > maxHello {
		return nil, fmt.Errorf("tandem: hello of %d bytes, largest allowed %d", len(body), maxHello)
	}
	return appendPrelude(dst, h.Protocol, helloKindHello, 0, body), nil
}

// AppendRefusal appends an encoded refusal to dst: instead of a hello, it tells
// the other side why there will be none.
func AppendRefusal(dst []byte, reason string) []byte { return appendRefusal(dst, 0, reason) }

// AppendReason is AppendRefusal for an error. If it wraps [ipc.ErrExhausted], then so
// does the other side's [*ipc.RefusedError]; and that has a code if the two do not agree.
func AppendReason(dst []byte, reason error) []byte {
	var code ipc.Code
	var mismatch *ipc.MismatchError
	switch {
	case errors.Is(reason, ipc.ErrExhausted):
		code = ipc.CodeResourceExhausted
	case errors.As(reason, &mismatch):
		code = ipc.CodeFailedPrecondition
	}
	return appendRefusal(dst, code, reason.Error())
}

func appendRefusal(dst []byte, code ipc.Code, reason string) []byte {
	return appendPrelude(dst, ProtocolVersion, helloKindRefuse, code, []byte(reason[:min(len(reason), maxHello)]))
}

// AppendQueued appends to dst what tells the other side that its hello was heard
// and will be answered later: it is in a queue.
func AppendQueued(dst []byte) []byte {
	return appendPrelude(dst, ProtocolVersion, helloKindQueue, 0, nil)
}

// AppendReady appends to dst what tells the other side, after both hellos, that this one
// has all that the link needs.
func AppendReady(dst []byte) []byte {
	return appendPrelude(dst, ProtocolVersion, helloKindReady, 0, nil)
}

func appendPrelude(dst []byte, version, kind int, code ipc.Code, body []byte) []byte {
	dst = append(dst, helloMagic...)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(version))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(kind))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(body)))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(code))
	return append(dst, body...)
}

// ReadHello reads one hello from r and nothing beyond it. It fails with an
// [*ipc.RefusedError] if the peer refused, with [ipc.ErrQueued] if the hello will come
// later, and with an [*ipc.MismatchError] if the peer's protocol has another version,
// since ReadHello cannot read the rest then.
func ReadHello(r io.Reader) (Hello, error) {
	m, err := readMessage(r)
	switch {
	case err != nil:
		return Hello{}, err
	case m.kind == helloKindQueue:
		return Hello{}, ipc.ErrQueued
	case m.version != ProtocolVersion:
		return Hello{}, &ipc.MismatchError{What: "protocol version", Local: fmt.Sprint(ProtocolVersion), Remote: fmt.Sprint(m.version)}
	case m.kind != helloKindHello:
		return Hello{}, fmt.Errorf("%w: hello of kind %d", ipc.ErrProtocol, m.kind)
	}
	h := Hello{Protocol: m.version}
	if err := ipc.CBOR.Decode(m.body, &h); err != nil {
		return Hello{}, fmt.Errorf("%w: hello cannot be read: %w", ipc.ErrProtocol, err)
	}
	return h, nil
}

// ReadReady reads from r what [AppendReady] has made. It fails with an
// [*ipc.RefusedError] if the peer, after its hello, had to give the link up.
func ReadReady(r io.Reader) error {
	m, err := readMessage(r)
	if err == nil && m.kind != helloKindReady {
		err = fmt.Errorf("%w: message of kind %d after the hello", ipc.ErrProtocol, m.kind)
	}
	return err
}

// message is what crosses a connection before there is a link.
type message struct {
	version, kind int
	body          []byte
}

// readMessage reads one message from r and nothing beyond it. A refusal is an error.
func readMessage(r io.Reader) (m message, err error) {
	var prelude [helloPrelude]byte
	if _, err := io.ReadFull(r, prelude[:]); err != nil {
		return m, err
	}
	if string(prelude[:8]) != helloMagic {
		return m, fmt.Errorf("%w: peer does not speak tandem: it opened with %q", ipc.ErrProtocol, prelude[:8])
	}
	m.version = int(binary.LittleEndian.Uint16(prelude[8:]))
	m.kind = int(binary.LittleEndian.Uint16(prelude[10:]))
	size := int(binary.LittleEndian.Uint16(prelude[12:]))
	if size > maxHello {
		return m, fmt.Errorf("%w: hello of %d bytes, largest allowed %d", ipc.ErrProtocol, size, maxHello)
	}
	m.body = make([]byte, size)
	if _, err := io.ReadFull(r, m.body); err != nil {
		if err == io.EOF { // it ended between prelude and body
			err = io.ErrUnexpectedEOF
		}
		return m, err
	}
	if m.kind == helloKindRefuse {
		refused := &ipc.RefusedError{Reason: string(m.body)}
		switch code := binary.LittleEndian.Uint16(prelude[14:]); code {
		case uint16(ipc.CodeResourceExhausted), uint16(ipc.CodeFailedPrecondition):
			refused.Code = ipc.Code(code)
		}
		return m, refused
	}
	return m, nil
}

// Agree compares the hellos of both sides. If they disagree it returns an
// [*ipc.MismatchError] with the first difference and both values. It also returns an
// error if the peer's largest message or window is too small.
func Agree(local, remote Hello) error {
	for _, f := range []struct {
		what          string
		local, remote any
	}{
		{"protocol version", local.Protocol, remote.Protocol},
		{"driver", local.Driver, remote.Driver},
		{"codec", local.Codec, remote.Codec},
		{"byte order", local.ByteOrder, remote.ByteOrder},
		{"layout version", local.Layout, remote.Layout},
	} {
		if f.local != f.remote {
			return &ipc.MismatchError{What: f.what, Local: fmt.Sprint(f.local), Remote: fmt.Sprint(f.remote)}
		}
	}
	if remote.MaxMessage < MinMaxMessage {
		return fmt.Errorf("%w: peer accepts messages of at most %d bytes, need %d", ipc.ErrProtocol, remote.MaxMessage, MinMaxMessage)
	}
	if remote.Window < MinWindow {
		return fmt.Errorf("%w: peer has a window of %d bytes, need %d", ipc.ErrProtocol, remote.Window, MinWindow)
	}
	if remote.CallTimeout < 0 {
		return fmt.Errorf("%w: peer bounds calls by %v", ipc.ErrProtocol, remote.CallTimeout)
	}
	return nil
}

// Sizes of the largest message, in bytes, header and payload together.
const (
	// DefaultMaxMessage is the size where none is given.
	DefaultMaxMessage = 64 << 20
	// MinMaxMessage and MaxMaxMessage are the least and the largest size that can
	// be agreed on.
	MinMaxMessage = 4 << 10
	MaxMaxMessage = math.MaxInt32 - 16
)
