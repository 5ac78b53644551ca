package ipc

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
)

// Fixed copies the memory of values as it is. It encodes nothing, so a call with structs
// costs as much as a call with as many bytes. It is for methods whose types have no
// pointers; choose it with [WithCodec]:
//
//	type Tick struct {
//		Time  int64
//		Price float64
//		Size  uint32
//		_     uint32 // padding has to be written out
//	}
//
//	var Quote = ipc.NewMethod[Tick, Tick]("market.quote", ipc.WithCodec(ipc.Fixed))
//
// Types may be made of integers, floats, complex numbers, arrays, structs and [Handle]. NewMethod
// panics for all others: pointers, strings, slices, maps and the like, which mean nothing
// in another process; bool, since not every byte is a valid one; and structs with implicit
// padding, which would show what was in memory before.
//
// The layout of both types is part of the method's id. So if two builds disagree, a call
// finds no handler, rather than garbage. The hello compares the byte order. The name of
// Fixed is "fixed".
var Fixed Codec = fixedCodec{}

type fixedCodec struct{}

func (fixedCodec) Name() string { return "fixed" }

// Append implements Codec. It is for callers that have no static type; methods
// use Marshal, which does not allocate.
func (fixedCodec) Append(dst []byte, v any) ([]byte, error) {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer {
		p := reflect.New(rv.Type())
		p.Elem().Set(rv)
		rv = p
	}
	if err := checkFixed(rv.Type().Elem()); err != nil {
		return dst, err
	}
	return append(dst, memoryAt(rv.UnsafePointer(), rv.Type().Elem().Size())...), nil
}

// Decode implements Codec.
func (fixedCodec) Decode(data []byte, v any) error {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return fmt.Errorf("tandem: codec fixed decodes into a pointer, not %T", v)
	}
	t := rv.Type().Elem()
	if err := checkFixed(t); err != nil {
		return err
	}
	return copyFixed(memoryAt(rv.UnsafePointer(), t.Size()), data, t)
}

func copyFixed(dst, data []byte, t reflect.Type) error {
	if len(dst) != len(data) {
		return fmt.Errorf("tandem: codec fixed: %d bytes for %v, which has %d", len(data), t, len(dst))
	}
	copy(dst, data)
	return nil
}

var fixedTypes sync.Map // of reflect.Type to error or nil

func checkFixed(t reflect.Type) error {
	if known, ok := fixedTypes.Load(t); ok {
		err, _ := known.(error)
		return err
	}
	_, err := fixedLayout(t)
	fixedTypes.Store(t, err)
	return err
}

// fixedLayout describes the memory of a type, without names, or says why the type
// cannot cross.
func fixedLayout(t reflect.Type) (string, error) {
	var b strings.Builder
	err := appendLayout(&b, t, t.String())
	if err != nil {
		return "", fmt.Errorf("tandem: codec fixed: %w", err)
	}
	return b.String(), nil
}

func appendLayout(b *strings.Builder, t reflect.Type, path string) error {
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		fmt.Fprintf(b, "i%d", t.Size())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		fmt.Fprintf(b, "u%d", t.Size())
	case reflect.Float32, reflect.Float64:
		fmt.Fprintf(b, "f%d", t.Size())
	case reflect.Complex64, reflect.Complex128:
		fmt.Fprintf(b, "c%d", t.Size())
	case reflect.Array:
		fmt.Fprintf(b, "[%d]", t.Len())
		return appendLayout(b, t.Elem(), path+"[]")
	case reflect.Struct:
		if t == handleType {
			b.WriteByte('h')
			return nil
		}
		b.WriteByte('{')
		end := uintptr(0)
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Offset != end {
				return fmt.Errorf("%s has %d bytes of padding before field %s: write them out as a field", path, f.Offset-end, f.Name)
			}
			if !f.IsExported() && Carries(f.Type) {
				return fmt.Errorf("%s.%s has a Handle and is not exported, so its buffer would stay behind: export it", path, f.Name)
			}
			if err := appendLayout(b, f.Type, path+"."+f.Name); err != nil {
				return err
			}
			b.WriteByte(' ')
			end = f.Offset + f.Type.Size()
		}
		if end != t.Size() {
			return fmt.Errorf("%s has %d bytes of padding at its end: write them out as a field", path, t.Size()-end)
		}
		b.WriteByte('}')
	case reflect.Bool:
		return fmt.Errorf("%s is a bool, and not every byte is one: use uint8", path)
	default:
		return fmt.Errorf("%s is a %v, which means nothing in another process", path, t.Kind())
	}
	return nil
}
