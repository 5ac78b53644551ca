package natsipc

import (
	"errors"
	"strconv"
	"strings"

	"github.com/tandemipc/tandem/ipc"
)

// The opening of a stream is a message with the header of a request, and one more. Its reply subject is
// where the server sends what it has of the stream, and its payload is the first item, if there is one.
const headerStream = "Tandem-Stream" // see streamHeader

// streamHeader is what the opening of a stream says besides the header of a request: how many bytes the caller takes,
// and flags, with a space between them.
type streamHeader struct {
	granted int64
	first   bool // the payload is the first item
	only    bool // which is the only one
	lasting bool // the stream has no end of its own
	call    bool // it is a call: a request and a response
}

func (h *streamHeader) String() string {
	b := append(strconv.AppendInt(nil, h.granted, 10), " -"...)
	for flag, set := range map[byte]bool{'f': h.first, 'o': h.only, 'l': h.lasting, 'c': h.call} {
		if set {
			b = append(b, flag)
		}
	}
	return string(b)
}

// parseStream undoes String.
func parseStream(s string) (h streamHeader, err error) {
	granted, flags, ok := strings.Cut(s, " ")
	if h.granted, err = strconv.ParseInt(granted, 10, 64); !ok || err != nil || h.granted < 0 {
		return h, malformed(headerStream, s)
	}
	has := func(flag string) bool { return strings.Contains(flags, flag) }
	h.first, h.only, h.lasting, h.call = has("f"), has("o"), has("l"), has("c")
	return h, nil
}

// streamNote is metadata that comes between the items of a stream, or with its end.
type streamNote struct {
	Header  ipc.Metadata `cbor:"1,keyasint,omitempty"`
	Trailer ipc.Metadata `cbor:"2,keyasint,omitempty"`
}

// encode returns the note, or nil if it says nothing.
func (n streamNote) encode() ([]byte, error) {
	if len(n.Header)+len(n.Trailer) == 0 {
		return nil, nil
	}
	return ipc.Marshal(ipc.CBOR, nil, n)
}

// streamMeta are header and trailer of a stream, where the caller wants them.
type streamMeta struct{ header, trailer *ipc.Metadata }

// take takes a note, which may be hostile.
func (r *streamMeta) take(b []byte) error {
	n, err := ipc.Unmarshal[streamNote](ipc.CBOR, b)
	if err != nil {
		return ipc.Errorf(ipc.CodeInternal, "%w: metadata of a stream: %w", ipc.ErrProtocol, err)
	}
	return errors.Join(addMetadata(r.header, n.Header), addMetadata(r.trailer, n.Trailer))
}

func addMetadata(to *ipc.Metadata, more ipc.Metadata) error {
	all := append(*to, more...)
	if err := all.Check(); err != nil {
		return ipc.Errorf(ipc.CodeInternal, "%w: metadata of a stream: %w", ipc.ErrProtocol, err)
	}
	*to = all
	return nil
}
