package drivers

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tandemipc/tandem/ipc"
)

// Metadata is what travels with a frame beside its payload: with a request, a notification
// or an answer.
//
// On the wire the header is an extension of type 2, and the trailer one of type 3. Its value
// is a list of fields:
//
//	 0          1            3
//	+----------+------------+-----+-------+------ - -
//	| key size | value size | key | value | next
//	+----------+------------+-----+-------+------ - -
type Metadata struct {
	header, trailer ipc.Metadata
	size            int
}

// NewMetadata returns the metadata of a frame: that of a request, or header and trailer of
// an answer. Nobody may change it any more. Its sender has to check it before, with
// [ipc.Metadata.Check].
func NewMetadata(header, trailer ipc.Metadata) *Metadata {
	return &Metadata{header, trailer, header.Size() + trailer.Size()}
}

// Header returns the metadata of a request, or the header of an answer. m may be nil.
func (m *Metadata) Header() ipc.Metadata {
	if m == nil {
		return nil
	}
	return m.header
}

// Trailer returns the trailer of an answer. m may be nil.
func (m *Metadata) Trailer() ipc.Metadata {
	if m == nil {
		return nil
	}
	return m.trailer
}

// fieldPrefix are the sizes of a field.
const fieldPrefix = 3

// Size returns what m counts for, as [ipc.Metadata.Size] does. m may be nil.
func (m *Metadata) Size() int {
	if m == nil {
		return 0
	}
	return m.size
}

// EncodedSize returns how many bytes m takes in a header. m may be nil.
func (m *Metadata) EncodedSize() int {
	if m == nil {
		return 0
	}
	return encodedSize(m.header) + encodedSize(m.trailer)
}

func encodedSize(fields ipc.Metadata) int {
	if len(fields) == 0 {
		return 0
	}
	size := extPrefix
	for i := range fields {
		size += fieldPrefix + len(fields[i].Key) + len(fields[i].Value)
	}
	return size
}

// append appends the extensions of m, which were checked, to dst.
func (m *Metadata) append(dst []byte) []byte {
	return appendFields(appendFields(dst, extHeader, m.header), extTrailer, m.trailer)
}

func appendFields(dst []byte, kind byte, fields ipc.Metadata) []byte {
	if len(fields) == 0 {
		return dst
	}
	dst = append(dst, kind)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(encodedSize(fields)-extPrefix))
	for i := range fields {
		f := &fields[i]
		dst = append(dst, byte(len(f.Key)))
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(f.Value)))
		dst = append(dst, f.Key...)
		dst = append(dst, f.Value...)
	}
	return dst
}

// parse takes the extension of a kind, which may be hostile, and may lie in memory that
// the peer changes meanwhile: it is read once.
func (m *Metadata) parse(kind byte, value []byte) error {
	into := &m.header
	if kind == extTrailer {
		into = &m.trailer
	}
	if *into != nil {
		return fmt.Errorf("extension %d for the second time", kind)
	}
	if len(value) > ipc.MaxMetadata { // its size would be more
		return fmt.Errorf("metadata of %d bytes, most allowed are %d", len(value), ipc.MaxMetadata)
	}
	text := string(value) // which the fields are parts of
	fields := make(ipc.Metadata, 0, countFields(text))
	for len(text) > 0 {
		key, val, rest, err := nextField(text)
		if err != nil {
			return err
		}
		if len(fields) == maxFields {
			return fmt.Errorf("metadata of more than %d fields", maxFields)
		}
		fields = append(fields, ipc.Field{Key: key, Value: val})
		text = rest
	}
	*into = fields
	m.size += fields.Size()
	return fields.Check()
}

var errFieldCut = errors.New("a field of the metadata is cut short")

// nextField returns the first field of text, and what follows it.
func nextField(text string) (key, value, rest string, err error) {
	if len(text) < fieldPrefix {
		return "", "", "", errFieldCut
	}
	k, v := int(text[0]), int(text[1])|int(text[2])<<8
	if text = text[fieldPrefix:]; k+v > len(text) {
		return "", "", "", errFieldCut
	}
	return text[:k], text[k : k+v], text[k+v:], nil
}

// countFields returns how many fields text has, as far as they are whole, and no more than
// metadata may have.
func countFields(text string) (n int) {
	for len(text) > 0 && n < maxFields {
		_, _, rest, err := nextField(text)
		if err != nil {
			break
		}
		text = rest
		n++
	}
	return n
}

// maxFields is more than any metadata has: each counts for 32 bytes and its key.
const maxFields = ipc.MaxMetadata / 32
