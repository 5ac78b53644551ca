package drivers_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// anyMetadata draws metadata that can be sent, mostly small.
func anyMetadata(t *rapid.T, name string) ipc.Metadata {
	var md ipc.Metadata
	for range rapid.IntRange(0, 20).Draw(t, name+" fields") {
		f := ipc.Field{
			Key:   rapid.StringMatching(`[a-z0-9._-]{1,20}`).Draw(t, "key"),
			Value: string(rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "value")),
		}
		if rapid.IntRange(0, 30).Draw(t, "long") == 0 {
			f.Key = strings.Repeat(f.Key[:1], 255)
			f.Value += strings.Repeat("v", rapid.IntRange(0, ipc.MaxMetadata).Draw(t, "length"))
		}
		if longer := append(md, f); longer.Size() <= ipc.MaxMetadata {
			md = longer
		}
	}
	return md
}

// encode is the oracle: the list of fields as docs/protocol.md has it.
func encode(kind byte, md ipc.Metadata) []byte {
	if len(md) == 0 {
		return nil
	}
	var list []byte
	for _, f := range md {
		list = append(list, byte(len(f.Key)))
		list = binary.LittleEndian.AppendUint16(list, uint16(len(f.Value)))
		list = append(append(list, f.Key...), f.Value...)
	}
	return append(binary.LittleEndian.AppendUint16([]byte{kind}, uint16(len(list))), list...)
}

func TestMetadataRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		md := drivers.NewMetadata(anyMetadata(t, "header"), anyMetadata(t, "trailer"))
		in := drivers.Frame{Kind: drivers.KindResponse, Tx: 1, Payload: []byte("payload"), Meta: md}
		if rapid.Bool().Draw(t, "remaining") {
			in.Remaining = 1
		}
		header := in.AppendHeader(nil)

		want := append(encode(2, md.Header()), encode(3, md.Trailer())...)
		require.Equal(t, len(want), md.EncodedSize())
		require.Equal(t, want, append([]byte(nil), header[len(header)-len(want):]...), "what the protocol says")
		require.LessOrEqual(t, len(header), drivers.MaxHeader+md.EncodedSize())

		body := append(bytes.Clone(header), in.Payload...)
		out, err := parse(in.Tag(), body)
		require.NoError(t, err)
		clear(body) // the fields are nobody else's
		if len(want) == 0 {
			require.Nil(t, out.Meta)
			return
		}
		require.Equal(t, md.Header().Size()+md.Trailer().Size(), out.Meta.Size())
		require.Equal(t, *md, *out.Meta)
		require.Equal(t, in.Remaining, out.Remaining)
		for n := range header {
			_, err := parse(in.Tag(), header[:n])
			require.ErrorIs(t, err, ipc.ErrProtocol, "%d of %d bytes", n, len(header))
		}
	})
}

func TestMetadataMalformed(t *testing.T) {
	field := func(key, value string) string {
		return string(encode(2, ipc.Metadata{{Key: key, Value: value}})[3:])
	}
	many := strings.Repeat(field("k", ""), ipc.MaxMetadata/33)
	for _, c := range []struct{ name, list, want string }{
		{"a field of one byte", "\x01", "cut short"},
		{"a key beyond the end", "\x02\x00\x00k", "cut short"},
		{"a value beyond the end", "\x01\xff\xffkv", "cut short"},
		{"a second field cut short", field("k", "v") + "\x01\x00", "cut short"},
		{"an empty key", field("", "v"), "is empty"},
		{"an upper case key", field("Key", "v"), "has byte 0x4b"},
		{"a key with a space", field("a key", "v"), "has byte 0x20"},
		{"a key that is no ASCII", field("sch\xc3\xb6n", "v"), "has byte 0xc3"},
		{"a key with a zero", field("k\x00", "v"), "has byte 0x00"},
		{"one large value", field("k", strings.Repeat("v", ipc.MaxMetadata-32)), "largest allowed 16384"},
		{"more bytes than any metadata", field("k", strings.Repeat("v", ipc.MaxMetadata)), "most allowed are 16384"},
		{"one field too many", many + field("k", "") + field("k", ""), "largest allowed 16384"},
		{"very many fields", strings.Repeat(field("k", ""), ipc.MaxMetadata/4), "more than 512 fields"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for kind := range byte(2) {
				list := binary.LittleEndian.AppendUint16([]byte{2 + kind}, uint16(len(c.list)))
				list = append(list, c.list...)
				body := binary.LittleEndian.AppendUint16(make([]byte, 8), uint16(len(list)))
				_, err := parse(0x21, append(body, list...))
				require.ErrorIs(t, err, ipc.ErrProtocol)
				assert.ErrorContains(t, err, c.want)
			}
		})
	}
	// The most is allowed, and the same kind comes once.
	most := encode(2, ipc.Pairs("k", strings.Repeat("v", ipc.MaxMetadata-33)))
	body := func(list []byte) []byte {
		return append(binary.LittleEndian.AppendUint16(make([]byte, 8), uint16(len(list))), list...)
	}
	_, err := parse(0x21, body(most))
	require.NoError(t, err)
	_, err = parse(0x21, body(append(encode(3, ipc.Pairs("a", "b")), encode(3, ipc.Pairs("a", "b"))...)))
	require.ErrorIs(t, err, ipc.ErrProtocol)
	require.ErrorContains(t, err, "second time")
	f, err := parse(0x21, body([]byte{2, 0, 0}))
	require.NoError(t, err, "an empty list")
	require.Zero(t, f.Meta.Size())
}

// What a frame takes in memory is bounded, whatever it says.
func TestMetadataAllocatesInBounds(t *testing.T) {
	list := make([]byte, math.MaxUint16-3)
	for i := range list {
		list[i] = []byte{1, 0, 0, 'k'}[i%4]
	}
	body := append(make([]byte, 8), 0xff, 0xff, 2)
	body = append(binary.LittleEndian.AppendUint16(body, uint16(len(list))), list...)
	for _, n := range []int{len(list), ipc.MaxMetadata} {
		binary.LittleEndian.PutUint16(body[8:], uint16(n+3))
		binary.LittleEndian.PutUint16(body[11:], uint16(n))
		const runs = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			_, err := parse(0x21, body[:13+n])
			require.ErrorIs(t, err, ipc.ErrProtocol)
		}
		runtime.ReadMemStats(&after)
		require.Less(t, (after.TotalAlloc-before.TotalAlloc)/runs, uint64(4*ipc.MaxMetadata))
	}
}

func FuzzParseMetadata(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add(encode(2, ipc.Pairs("a", "b", "a", ""))[3:], encode(3, ipc.Pairs("status", "\x00\xff"))[3:])
	f.Add([]byte("\x01\xff\xffkv"), []byte("\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, header, trailer []byte) {
		if len(header)+len(trailer) > math.MaxUint16-6 {
			return
		}
		list := binary.LittleEndian.AppendUint16([]byte{2}, uint16(len(header)))
		list = binary.LittleEndian.AppendUint16(append(append(list, header...), 3), uint16(len(trailer)))
		list = append(list, trailer...)
		frame, err := parse(0x21, append(binary.LittleEndian.AppendUint16(make([]byte, 8), uint16(len(list))), list...))
		if err != nil {
			require.ErrorIs(t, err, ipc.ErrProtocol)
			return
		}
		// What was understood is right, and is encoded as it came.
		require.NoError(t, frame.Meta.Header().Check())
		require.NoError(t, frame.Meta.Trailer().Check())
		want := append(encode(2, frame.Meta.Header()), encode(3, frame.Meta.Trailer())...)
		again := frame.AppendHeader(nil)
		require.Equal(t, string(want), string(again[len(again)-len(want):]))
		if len(header) > 0 && len(trailer) > 0 {
			require.Equal(t, string(list), string(want))
		}
	})
}
