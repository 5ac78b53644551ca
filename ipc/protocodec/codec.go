// Package protocodec carries messages of Protocol Buffers: it is a codec for methods whose types are
// pointers to what protoc-gen-go has generated.
//
//	var Place = ipc.NewMethod[*pb.Order, *pb.Receipt]("shop.place", ipc.WithCodec(protocodec.Codec))
//
// It is a module of its own, so that programs that do not use it need no package of Protocol Buffers.
package protocodec

import (
	"fmt"
	"reflect"

	"google.golang.org/protobuf/proto"

	"github.com/tandemipc/tandem/ipc"
)

// Codec carries messages of Protocol Buffers: types are pointers to generated messages, as *pb.Order.
// [ipc.NewMethod] panics for all others. Its name is "protobuf". It is safe for concurrent use, as long as
// nobody changes a message while it is encoded.
//
// A message arrives equal, in the sense of proto.Equal, together with fields that one side does not know.
// A nil message arrives as an empty one, since their encodings are the same: none. A message that Protocol
// Buffers do not encode is an error: text that is not UTF-8, a required field that is not set.
//
// CallInto, and Decode into a message that is there already, resets it first.
//
// A message that would take much more memory than its size is an [*ipc.Error] with
// CodeResourceExhausted, and is not decoded: the bound is 256 MiB, or 32 times the size of the message if
// that is more, or what [ipc.WithMaxDecoded] says. The count is of messages, elements, strings and what is
// not known, and mostly above what is allocated. Messages may be nested up to 10000 levels.
//
// Host and worker may have different versions of a message, as Protocol Buffers allow. That both mean the
// same message is up to them: the name of the message is no part of the method's id.
var Codec ipc.Codec = codec{}

// codec has a bound if it is more than 0.
type codec struct{ bound int }

var (
	_ ipc.TypeChecker = codec{}
	_ ipc.Bounder     = codec{}
)

// Name implements [ipc.Codec].
func (codec) Name() string { return "protobuf" }

// Bounded implements [ipc.Bounder].
func (codec) Bounded(bytes int) ipc.Codec { return codec{bytes} }

// CheckType implements [ipc.TypeChecker].
func (codec) CheckType(t reflect.Type) (err error) {
	if t.Kind() != reflect.Pointer || !isMessage(t) {
		if isMessage(reflect.PointerTo(t)) {
			return fmt.Errorf("tandem: codec protobuf carries pointers to messages: use *%v", t)
		}
		return fmt.Errorf("tandem: codec protobuf carries pointers to generated messages, not %v", t)
	}
	err = fmt.Errorf("tandem: codec protobuf carries pointers to generated messages, and %v is none, or embeds one", t)
	defer func() { _ = recover() }() // of a nil message that is embedded
	m := reflect.New(t.Elem()).Interface().(proto.Message).ProtoReflect()
	if m.Descriptor() != nil && m.IsValid() && reflect.TypeOf(m.Interface()) == t {
		err = nil
	}
	return err
}

func isMessage(t reflect.Type) bool { return t.Implements(reflect.TypeFor[proto.Message]()) }

// Append implements [ipc.Codec]. v is a message, or a pointer to one.
func (codec) Append(dst []byte, v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		p := reflect.ValueOf(v)
		if p.Kind() == reflect.Pointer && !p.IsNil() {
			m, ok = p.Elem().Interface().(proto.Message)
		}
	}
	if !ok {
		return dst, fmt.Errorf("tandem: codec protobuf carries pointers to generated messages, not %T", v)
	}
	b, err := proto.MarshalOptions{}.MarshalAppend(dst, m)
	if err != nil {
		return dst, fmt.Errorf("tandem: codec protobuf: %w", err)
	}
	return b, nil
}

// Decode implements [ipc.Codec]. v is a message, or a pointer to a variable for one.
func (c codec) Decode(data []byte, v any) error {
	m, err := target(v)
	if err != nil {
		return err
	}
	if err := c.check(data, m); err != nil {
		return err
	}
	if err := (proto.UnmarshalOptions{NoLazyDecoding: true}).Unmarshal(data, m); err != nil {
		return fmt.Errorf("tandem: codec protobuf: %w", err)
	}
	return nil
}

// target returns the message to decode into. It makes one where v points to a nil one.
func target(v any) (proto.Message, error) {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return nil, fmt.Errorf("tandem: codec protobuf decodes into a message or a pointer to one, not %T", v)
	}
	if m, ok := v.(proto.Message); ok {
		return m, nil
	}
	to := p.Elem()
	if to.Kind() != reflect.Pointer || !isMessage(to.Type()) {
		return nil, fmt.Errorf("tandem: codec protobuf decodes into a message or a pointer to one, not %T", v)
	}
	if to.IsNil() {
		to.Set(reflect.New(to.Type().Elem()))
	}
	return to.Interface().(proto.Message), nil
}
