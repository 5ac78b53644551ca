package protocodec_test

import (
	"bytes"
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/typepb"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/protocodec"
)

// repeat is as many of an item as fit into size bytes.
func repeat(size int, item string) []byte { return bytes.Repeat([]byte(item), size/len(item)) }

// field is a field of these bytes.
func field(number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}

// entries are pairs of a map whose values are empty.
func entries(size int) (b []byte) {
	for i := 0; len(b) < size; i++ {
		b = append(b, field(1, append(field(1, strconv.AppendInt(nil, int64(i), 36)), field(2, nil)...))...)
	}
	return b
}

// nest is a message within a message, and so on.
func nest(size int, number protowire.Number) (b []byte) {
	for len(b) < size {
		b = field(number, b)
	}
	return b
}

func hostile(size int) []struct {
	name string
	body []byte
	into proto.Message
} {
	return []struct {
		name string
		body []byte
		into proto.Message
	}{
		{"empty messages", repeat(size, "\x22\x00"), new(descriptorpb.FileDescriptorProto)},
		{"empty values", repeat(size, "\x0a\x00"), new(structpb.ListValue)},
		{"empty lists in values", repeat(size, "\x0a\x02\x32\x00"), new(structpb.ListValue)},
		{"empty structs in values", repeat(size, "\x0a\x02\x2a\x00"), new(structpb.ListValue)},
		{"a message again and again", repeat(size, "\x42\x00"), new(descriptorpb.FileDescriptorProto)},
		{"entries of a map", entries(size), new(structpb.Struct)},
		{"entries without anything", repeat(size, "\x0a\x00"), new(structpb.Struct)},
		{"empty texts", repeat(size, "\x0a\x00"), new(fieldmaskpb.FieldMask)},
		{"short texts", repeat(size, "\x0a\x01a"), new(fieldmaskpb.FieldMask)},
		{"packed integers", field(1, repeat(size, "\x01")), new(descriptorpb.SourceCodeInfo_Location)},
		{"integers", repeat(size, "\x08\x01"), new(descriptorpb.SourceCodeInfo_Location)},
		{"what nobody knows", repeat(size, "\xf8\x07\x01"), new(structpb.Struct)},
		{"groups that nobody knows", repeat(size, "\xfb\x07\xfc\x07"), new(structpb.Struct)},
		{"what is of another type", repeat(size, "\x08\x01"), new(structpb.Struct)},
		{"options", repeat(size, "\x0a\x02\x1a\x00"), new(typepb.Type)},
		{"nested messages", nest(size, 3), new(descriptorpb.DescriptorProto)},
		{"nested values", nest(5000, 1), new(structpb.ListValue)},
		{"a large text", field(1, repeat(size, "a")), new(fieldmaskpb.FieldMask)},
		{"a tail that is wrong", append(repeat(size, "\x22\x00"), 0xff), new(descriptorpb.FileDescriptorProto)},
		{"features", repeat(size, "\x22\x04\x3a\x02\x62\x00"), new(descriptorpb.FileDescriptorProto)},
	}
}

// Whatever a message is: it is decoded within about the bound, or refused before anything of it is.
func TestDecodingIsBounded(t *testing.T) {
	refused, decoded := 0, 0
	for _, h := range hostile(128 << 10) {
		t.Run(h.name, func(t *testing.T) {
			_ = protocodec.Codec.Decode(h.body[:4], proto.Clone(h.into)) // what is made once for a type
			for bound := 64 << 10; bound <= 64<<20; bound *= 8 {
				codec := ipc.NewMethod[*structpb.Struct, *structpb.Struct]("m", ipc.WithCodec(protocodec.Codec), ipc.WithMaxDecoded(bound)).Codec(nil)
				require.Equal(t, "protobuf", codec.Name())
				into := proto.Clone(h.into)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				err := codec.Decode(h.body, into)
				runtime.ReadMemStats(&after)
				took := int64(after.TotalAlloc - before.TotalAlloc)
				if ipc.CodeOf(err) == ipc.CodeResourceExhausted {
					refused++
					require.ErrorContains(t, err, "more than "+strconv.Itoa(bound)+" bytes")
					require.Less(t, took, int64(256<<10), "refused before it is decoded")
				} else {
					decoded++
					require.Less(t, took, int64(2*bound)+64<<10, "decoded within the bound of %d: %v", bound, err)
				}
			}
		})
	}
	require.Positive(t, refused)
	require.Positive(t, decoded)
}

// Without an option a message may take 256 MiB, or 32 times its size.
func TestDefaultBound(t *testing.T) {
	into := new(descriptorpb.FileDescriptorProto)
	err := protocodec.Codec.Decode(repeat(8<<20, "\x22\x00"), into)
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "more than 268435456 bytes")
	require.Empty(t, into.MessageType)
	require.NoError(t, protocodec.Codec.Decode(repeat(1<<10, "\x22\x00"), into))
	require.Len(t, into.MessageType, 512)
	path := new(descriptorpb.SourceCodeInfo_Location)
	require.NoError(t, protocodec.Codec.Decode(field(1, repeat(20<<20, "\x01")), path), "honest messages grow, too")
	require.Len(t, path.Path, 20<<20)
}

// FuzzProtobuf looks for input that takes much more memory than the bound, or that is decoded and then is not the same
// when it is sent again.
func FuzzProtobuf(f *testing.F) {
	for _, h := range hostile(300) {
		f.Add(h.body)
	}
	const bound = 1 << 20
	codec := protocodec.Codec.(ipc.Bounder).Bounded(bound)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []proto.Message{
			new(structpb.Struct), new(structpb.ListValue), new(descriptorpb.FileDescriptorProto), new(descriptorpb.FieldOptions), new(typepb.Type),
		} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := codec.Decode(b, m)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 4*bound {
				t.Errorf("%d bytes for %x into %T", n, b, m)
			}
			if err != nil {
				continue
			}
			again, err := codec.Append(nil, m)
			if err != nil {
				t.Fatalf("decoded but cannot be encoded: %v", err)
			}
			back := m.ProtoReflect().New().Interface()
			if err := protocodec.Codec.Decode(again, back); err != nil || !proto.Equal(m, back) {
				t.Fatalf("sent %v, got %v: %v", m, back, err)
			}
		}
	})
}
