package protocodec_test

import (
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/protocodec"
)

func genValue(depth int) *rapid.Generator[*structpb.Value] {
	return rapid.Custom(func(t *rapid.T) *structpb.Value {
		kinds := 4
		if depth > 0 {
			kinds = 6
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return structpb.NewNullValue()
		case 1:
			return structpb.NewBoolValue(rapid.Bool().Draw(t, "bool"))
		case 2:
			return structpb.NewNumberValue(rapid.Float64().Draw(t, "number"))
		case 3:
			return structpb.NewStringValue(rapid.String().Draw(t, "text"))
		case 4:
			return structpb.NewListValue(&structpb.ListValue{Values: rapid.SliceOfN(genValue(depth-1), 0, 4).Draw(t, "list")})
		}
		return structpb.NewStructValue(&structpb.Struct{Fields: rapid.MapOfN(rapid.String(), genValue(depth-1), 0, 4).Draw(t, "fields")})
	})
}

// What is sent arrives equal, after what dst has, and keeps nothing of the data.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := genValue(3).Draw(t, "value")
		dst := rapid.SliceOf(rapid.Byte()).Draw(t, "dst")
		b, err := ipc.Marshal(protocodec.Codec, append([]byte(nil), dst...), in)
		require.NoError(t, err)
		require.Equal(t, string(dst), string(b[:len(dst)]))
		direct, err := protocodec.Codec.Append(nil, in)
		require.NoError(t, err)
		require.Len(t, direct, len(b)-len(dst))
		out, err := ipc.Unmarshal[*structpb.Value](protocodec.Codec, b[len(dst):])
		require.NoError(t, err)
		into := structpb.NewStringValue("what was there is gone")
		require.NoError(t, protocodec.Codec.Decode(b[len(dst):], into))
		for i := range b {
			b[i] = 0xff
		}
		require.True(t, proto.Equal(in, out), "sent %v, got %v", in, out)
		require.True(t, proto.Equal(in, into), "sent %v, got %v", in, into)
	})
}

func TestFieldsThatNobodyKnowsStay(t *testing.T) {
	in, err := proto.Marshal(&descriptorpb.FieldDescriptorProto{Name: proto.String("n"), Number: proto.Int32(7), JsonName: proto.String("j")})
	require.NoError(t, err)
	m, err := ipc.Unmarshal[*durationpb.Duration](protocodec.Codec, in)
	require.NoError(t, err)
	out, err := ipc.Marshal(protocodec.Codec, nil, m)
	require.NoError(t, err)
	back, err := ipc.Unmarshal[*descriptorpb.FieldDescriptorProto](protocodec.Codec, out)
	require.NoError(t, err)
	require.Equal(t, "n", back.GetName())
	require.Equal(t, int32(7), back.GetNumber())
}

// A nil message is an empty one on the other side.
func TestNilMessages(t *testing.T) {
	b, err := ipc.Marshal(protocodec.Codec, []byte("dst"), (*structpb.Struct)(nil))
	require.NoError(t, err)
	require.Equal(t, "dst", string(b))
	out, err := ipc.Unmarshal[*structpb.Struct](protocodec.Codec, nil)
	require.NoError(t, err)
	require.NotNil(t, out)
	require.True(t, proto.Equal(&structpb.Struct{}, out))
}

// Messages that are embedded: the fields beside them would not arrive.
type (
	ByPointer struct {
		*structpb.Struct
		N int
	}
	ByValue struct {
		structpb.Struct
		N int
	}
	ByInterface struct{ proto.Message }
)

// What is no generated message is refused where a method is declared, and by the codec.
func TestTypesThatAreRefused(t *testing.T) {
	opt := ipc.WithCodec(protocodec.Codec)
	good := func() { ipc.NewMethod[*structpb.Struct, *anypb.Any]("m", opt) }
	require.NotPanics(t, good)
	const generated = "codec protobuf carries pointers to generated messages, not "
	for want, declare := range map[string]func(){
		generated + "int":                       func() { ipc.NewMethod[int, *structpb.Struct]("m", opt) },
		generated + "[]uint8":                   func() { ipc.NewMethod[*structpb.Struct, []byte]("m", opt) },
		generated + "protoreflect.ProtoMessage": func() { ipc.NewMethod[proto.Message, *structpb.Struct]("m", opt) },
		generated + "**structpb":                func() { ipc.NewMethod[**structpb.Struct, *structpb.Struct]("m", opt) },
		"dynamicpb.Message is none":             func() { ipc.NewMethod[*dynamicpb.Message, *structpb.Struct]("m", opt) },
		"ByPointer is none":                     func() { ipc.NewMethod[*ByPointer, *structpb.Struct]("m", opt) },
		"ByValue is none":                       func() { ipc.NewMethod[*structpb.Struct, *ByValue]("m", opt) },
		"ByInterface is none":                   func() { ipc.NewMethod[*ByInterface, *structpb.Struct]("m", opt) },
		"use *timestamppb.Timestamp": func() {
			require.NoError(t, protocodec.Codec.(ipc.TypeChecker).CheckType(reflect.TypeFor[*timestamppb.Timestamp]()))
			panic(protocodec.Codec.(ipc.TypeChecker).CheckType(reflect.TypeFor[timestamppb.Timestamp]()).Error())
		},
	} {
		func() {
			defer func() { require.Contains(t, recover(), want) }()
			declare()
		}()
	}
	for _, v := range []any{nil, 1, "x", new(int), (**structpb.Struct)(nil), new(***structpb.Struct), struct{}{}} {
		b, err := protocodec.Codec.Append([]byte("dst"), v)
		require.ErrorContains(t, err, "tandem: codec protobuf carries", "%T", v)
		require.Equal(t, "dst", string(b))
		require.ErrorContains(t, protocodec.Codec.Decode(nil, v), "tandem: codec protobuf decodes into", "%T", v)
	}
	require.ErrorContains(t, protocodec.Codec.Decode(nil, (*structpb.Struct)(nil)), "tandem: codec protobuf decodes into")
}

// Values that Protocol Buffers do not encode, and bytes that they do not decode, are errors.
func TestErrors(t *testing.T) {
	for _, m := range []proto.Message{structpb.NewStringValue("\xff"), &descriptorpb.UninterpretedOption_NamePart{}} {
		b, err := protocodec.Codec.Append([]byte("dst"), m)
		require.ErrorContains(t, err, "tandem: codec protobuf: ")
		require.Equal(t, "dst", string(b))
	}
	for _, b := range []string{"\xff", "\x0a\x05a", "\x0a\x01\xff"} {
		require.ErrorContains(t, protocodec.Codec.Decode([]byte(b), new(wrapperspb.StringValue)), "tandem: codec protobuf: ", "%q", b)
	}
}

func TestConcurrentUse(t *testing.T) {
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				in := wrapperspb.String(strings.Repeat("x", g*i))
				b, err := ipc.Marshal(protocodec.Codec, nil, in)
				if err != nil {
					t.Error(err)
				}
				if out, err := ipc.Unmarshal[*wrapperspb.StringValue](protocodec.Codec, b); err != nil || out.Value != in.Value {
					t.Error(out, err)
				}
			}
		})
	}
	wg.Wait()
	_, err := ipc.Unmarshal[*wrapperspb.DoubleValue](protocodec.Codec, nil)
	require.NoError(t, err)
	b, err := ipc.Marshal(protocodec.Codec, nil, wrapperspb.Double(math.Inf(1)))
	require.NoError(t, err)
	require.Len(t, b, 9)
}
