package ipc

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/fxamacker/cbor/v2"
)

// A Buffer or a File is encoded as the number that stands for it: in CBOR a tagged unsigned
// integer, in JSON a string, and with Raw eight bytes.
const (
	bufferTag = 0x54414e42
	fileTag   = 0x54414e46
)

// MarshalCBOR implements [cbor.Marshaler]. The buffer itself goes only with a message that a
// call or a stream sends.
func (b Buffer) MarshalCBOR() ([]byte, error) { return marshalNumber(bufferTag, b.id) }

// UnmarshalCBOR implements [cbor.Unmarshaler].
func (b *Buffer) UnmarshalCBOR(data []byte) (err error) {
	*b = Buffer{}
	b.id, err = unmarshalNumber(data, bufferTag, "Buffer")
	return err
}

// MarshalJSON implements [encoding/json.Marshaler], as MarshalCBOR does.
func (b Buffer) MarshalJSON() ([]byte, error) { return numberText(b.id), nil }

// UnmarshalJSON implements [encoding/json.Unmarshaler].
func (b *Buffer) UnmarshalJSON(text []byte) (err error) {
	*b = Buffer{}
	b.id, err = parseNumber(text, "Buffer")
	return err
}

// MarshalCBOR implements [cbor.Marshaler]. The file itself goes only with a message that a call or
// a stream sends.
func (f File) MarshalCBOR() ([]byte, error) { return marshalNumber(fileTag, f.id) }

// UnmarshalCBOR implements [cbor.Unmarshaler].
func (f *File) UnmarshalCBOR(data []byte) (err error) {
	*f = File{}
	f.id, err = unmarshalNumber(data, fileTag, "File")
	return err
}

// MarshalJSON implements [encoding/json.Marshaler], as MarshalCBOR does.
func (f File) MarshalJSON() ([]byte, error) { return numberText(f.id), nil }

// UnmarshalJSON implements [encoding/json.Unmarshaler].
func (f *File) UnmarshalJSON(text []byte) (err error) {
	*f = File{}
	f.id, err = parseNumber(text, "File")
	return err
}

func marshalNumber(tag, number uint64) ([]byte, error) {
	return cborEnc.Marshal(cbor.Tag{Number: tag, Content: number})
}

func unmarshalNumber(data []byte, tag uint64, what string) (number uint64, err error) {
	var t cbor.RawTag
	if err := cborDec.Unmarshal(data, &t); err != nil {
		return 0, err
	}
	if t.Number != tag {
		return 0, fmt.Errorf("tandem: tag %d is not that of a %s", t.Number, what)
	}
	err = cborDec.Unmarshal(t.Content, &number)
	return number, err
}

func numberText(number uint64) []byte {
	return append(strconv.AppendUint([]byte{'"'}, number, 10), '"')
}

func parseNumber(text []byte, what string) (uint64, error) {
	if len(text) >= 2 && text[0] == '"' {
		if n, err := strconv.ParseUint(string(text[1:len(text)-1]), 10, 64); err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("tandem: %.20q is not a %s", text, what)
}

// rawNumber is what codec Raw makes of v, if that is a Buffer or a File, or a pointer to one.
func rawNumber(dst []byte, v any) ([]byte, bool) {
	switch v := v.(type) {
	case Buffer:
		return binary.LittleEndian.AppendUint64(dst, v.id), true
	case *Buffer:
		return binary.LittleEndian.AppendUint64(dst, v.id), true
	case File:
		return binary.LittleEndian.AppendUint64(dst, v.id), true
	case *File:
		return binary.LittleEndian.AppendUint64(dst, v.id), true
	}
	return dst, false
}

// decodeRawNumber decodes a Buffer or a File, if v points to one.
func decodeRawNumber(data []byte, v any) (ok bool, err error) {
	switch v := v.(type) {
	case *Buffer:
		return true, decodeBuffer(data, v)
	case *File:
		*v = File{}
		v.id, err = rawNumberOf(data)
		return true, err
	}
	return false, nil
}

func decodeBuffer(data []byte, b *Buffer) (err error) {
	b.h = nil
	b.id, err = rawNumberOf(data)
	return err
}

func rawNumberOf(data []byte) (uint64, error) {
	if len(data) != 8 {
		return 0, fmt.Errorf("tandem: codec raw: %d bytes for a Buffer or a File, which takes 8", len(data))
	}
	return binary.LittleEndian.Uint64(data), nil
}
