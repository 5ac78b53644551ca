package ipc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Codec turns values into bytes and back. A Codec is safe for concurrent use.
type Codec interface {
	// Name is the name by which host and worker compare their codecs.
	Name() string
	// Append appends the encoding of v to dst. v may be a pointer to the value.
	Append(dst []byte, v any) ([]byte, error)
	// Decode decodes data, which it does not keep, into the value that v points to.
	Decode(data []byte, v any) error
}

// TypeChecker is a [Codec] that does not carry every type. [NewMethod] asks it about both types of a
// method that chooses it, and panics with its error.
type TypeChecker interface {
	Codec
	// CheckType returns an error that says why values of t cannot travel, nil if they can.
	CheckType(t reflect.Type) error
}

// Bounder is a [Codec] that bounds how much memory decoding takes.
type Bounder interface {
	Codec
	// Bounded returns the codec with a bound of so many bytes for each message. A message that takes
	// more is an [*Error] with CodeResourceExhausted. [WithMaxDecoded] uses it.
	Bounded(bytes int) Codec
}

// The codecs that a link can have. [FindCodec] finds them by their names.
var (
	// CBOR is the default: RFC 8949, compact, and strict about what it takes.
	// Input with duplicate map keys, indefinite lengths, deep nesting,
	// arrays of more than 16 Mi elements or maps of more than 1 Mi pairs is an
	// error. Strings may hold any bytes, as in Go. Its name is "cbor".
	//
	// What travels with it: numbers, strings, bool, slices, arrays, maps, structs with
	// exported fields, and pointers to these, nested up to 256 levels. Types that have
	// MarshalCBOR, MarshalBinary or MarshalText, the first of these, and the method that
	// takes it back, travel as these say; MarshalJSON is not used. A time.Time arrives as
	// the same moment in UTC, without a monotonic clock. Fields that are not exported stay
	// behind, as with encoding/json, and an empty slice or map stays apart from a nil one.
	// A value in an any arrives as what CBOR makes of it: bool, uint64, int64, float64,
	// string, []byte, []any, map[any]any, time.Time, big.Int. [NewMethod] refuses what
	// cannot travel, or would arrive as something else: channels, functions, complex
	// numbers, interfaces with methods, types with fields of which none is exported, types
	// that encode themselves but do not decode themselves, structs that are encoded by a
	// method of what they embed beside other fields, structs with two fields of one name,
	// pointers as keys of maps, and big.Float, whose precision would be lost. A value that
	// contains itself is an error, and so is what an any holds and cannot travel. A message
	// that would take much more memory than its size is an error where it is decoded: see
	// [WithMaxDecoded]. docs/choosing-a-driver.md has a table.
	CBOR Codec = cborCodec{}
	// JSON is encoding/json, for workers that are debugged with other tools. What travels
	// with it is what encoding/json says, and what that would change is an error: text that is not
	// UTF-8, times in zones with seconds, integers beyond 2^53 in an any, an empty json.Number.
	// Its name is "json".
	JSON Codec = jsonCodec{}
	// Raw passes []byte on as it is, and takes no other type but [Buffer] and [File]. Its name is
	// "raw".
	Raw Codec = rawCodec{}
)

// FindCodec returns the codec of this name, and false if there is none.
func FindCodec(name string) (Codec, bool) {
	for _, c := range []Codec{CBOR, JSON, Raw} {
		if c.Name() == name {
			return c, true
		}
	}
	return nil, false
}

// The modes are built once: building one costs more than a call does.
var (
	cborEnc = must(cbor.EncOptions{
		Time:          cbor.TimeRFC3339NanoUTC,
		TimeTag:       cbor.EncTagRequired, // so that it is a time.Time in an any, too
		TextMarshaler: cbor.TextMarshalerTextString,
	}.UserBufferEncMode())
	cborDec = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TextUnmarshaler:  cbor.TextUnmarshalerTextString,
		MaxNestedLevels:  maxDecodedDepth,
		MaxArrayElements: 16 << 20,
		MaxMapPairs:      1 << 20,
		// A Go string may hold any bytes, a file's name for instance, and what
		// was encoded has to arrive.
		UTF8: cbor.UTF8DecodeInvalid,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// cborCodec is CBOR, with a bound for what decoding may take where a method has one.
type cborCodec struct{ maxDecoded int }

func (cborCodec) Name() string { return "cbor" }

func (cborCodec) Append(dst []byte, v any) ([]byte, error) {
	if err := lookAt(v, false); err != nil {
		return dst, err
	}
	return appendWith(dst, func(b *bytes.Buffer) error { return cborEnc.MarshalToBuffer(v, b) })
}

func (c cborCodec) Decode(data []byte, v any) error {
	if err := checkDecoded(false, data, v, c.maxDecoded); err != nil {
		return err
	}
	return cborDec.Unmarshal(data, v)
}

// jsonCodec is JSON, with a bound as cborCodec has it.
type jsonCodec struct{ maxDecoded int }

func (jsonCodec) Name() string { return "json" }

func (jsonCodec) Append(dst []byte, v any) ([]byte, error) {
	if err := lookAt(v, true); err != nil {
		return dst, err
	}
	n := len(dst)
	b, err := appendWith(dst, func(b *bytes.Buffer) error { return json.NewEncoder(b).Encode(v) })
	if err == nil {
		err = checkJSONText(b[n:], v)
	}
	return b, err
}

// lookAt looks at v before it is encoded, if its type asks for it.
func lookAt(v any, json bool) error {
	if t := reflect.TypeOf(v); t == nil || !travelsOf(t, json, true).look {
		return nil
	}
	return look{json}.check(reflect.ValueOf(v), 0, true)
}

func (c jsonCodec) Decode(data []byte, v any) error {
	if err := checkDecoded(true, data, v, c.maxDecoded); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

var bufferPool = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// appendWith lets encode, which writes to a buffer, append to dst.
func appendWith(dst []byte, encode func(*bytes.Buffer) error) ([]byte, error) {
	b := bufferPool.Get().(*bytes.Buffer)
	*b = *bytes.NewBuffer(dst)
	err := encode(b)
	dst = b.Bytes()
	*b = bytes.Buffer{} // the memory is the caller's
	bufferPool.Put(b)
	return dst, err
}

type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Append(dst []byte, v any) ([]byte, error) {
	switch b := v.(type) {
	case []byte:
		return append(dst, b...), nil
	case *[]byte:
		return append(dst, *b...), nil
	}
	if b, ok := rawNumber(dst, v); ok {
		return b, nil
	}
	return dst, fmt.Errorf("tandem: codec raw carries []byte, Buffer and File, not %T", v)
}

func (rawCodec) Decode(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		if ok, err := decodeRawNumber(data, v); ok {
			return err
		}
		return fmt.Errorf("tandem: codec raw carries []byte, Buffer and File, not what %T points to", v)
	}
	*b = slices.Clone(data)
	return nil
}
