package ipc

import (
	"encoding/binary"
	"slices"
)

// Marshal appends the encoding of v to dst. With the codecs Raw and Fixed it
// allocates nothing but room in dst. A type that is not fit for Fixed must not
// get here: [NewMethod] refuses it.
func Marshal[T any](c Codec, dst []byte, v T) ([]byte, error) {
	switch c {
	case Fixed:
		return appendFixed(dst, v), nil
	case Raw:
		switch v := any(v).(type) {
		case []byte:
			return append(dst, v...), nil
		case Buffer:
			return binary.LittleEndian.AppendUint64(dst, v.id), nil
		}
	}
	escaped := v // so that v itself does not
	return c.Append(dst, &escaped)
}

// Unmarshal decodes data, which it does not keep.
func Unmarshal[T any](c Codec, data []byte) (T, error) {
	switch c {
	case Fixed:
		return decodeFixed[T](data)
	case Raw:
		var v T
		switch to := any(&v).(type) {
		case *[]byte:
			*to = slices.Clone(data)
			return v, nil
		case *Buffer:
			return v, decodeBuffer(data, to)
		}
	}
	v := new(T)
	err := c.Decode(data, v)
	return *v, err
}
