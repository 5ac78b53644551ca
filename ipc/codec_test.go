package ipc_test

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

type record struct {
	Name  string
	Count int64
	Ratio float64
	On    bool
	Blob  []byte
	List  []int32
	Table map[string]uint16
	Next  *record
	When  time.Time
}

func genRecord(depth int) *rapid.Generator[record] {
	return rapid.Custom(func(t *rapid.T) record {
		r := record{
			Name:  rapid.String().Draw(t, "name"),
			Count: rapid.Int64().Draw(t, "count"),
			Ratio: rapid.Float64Range(-1e300, 1e300).Draw(t, "ratio"),
			On:    rapid.Bool().Draw(t, "on"),
			Blob:  rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "blob"),
			List:  rapid.SliceOfN(rapid.Int32(), 1, 20).Draw(t, "list"),
			Table: rapid.MapOfN(rapid.StringMatching(`[a-z]{1,8}`), rapid.Uint16(), 1, 10).Draw(t, "table"),
			When:  time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC(),
		}
		if depth > 0 && rapid.Bool().Draw(t, "deeper") {
			next := genRecord(depth-1).Draw(t, "next")
			r.Next = &next
		}
		return r
	})
}

func TestCodecRoundTrip(t *testing.T) {
	for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
		t.Run(codec.Name(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				in := genRecord(3).Draw(t, "record")
				prefix := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "dst")
				dst := append(make([]byte, 0, rapid.IntRange(0, 2000).Draw(t, "capacity")), prefix...)

				var v any = in
				if rapid.Bool().Draw(t, "by pointer") {
					v = &in
				}
				b, err := codec.Append(dst, v)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(b[:len(prefix)], prefix) {
					t.Fatalf("Append changed what dst held: %x, want %x", b[:len(prefix)], prefix)
				}
				var out record
				if err := codec.Decode(b[len(prefix):], &out); err != nil {
					t.Fatal(err)
				}
				clear(b) // Decode keeps nothing of it
				assert.Equal(t, in, out)
			})
		})
	}
}

func TestRawRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOf(rapid.Byte()).Draw(t, "in")
		dst := rapid.SliceOf(rapid.Byte()).Draw(t, "dst")
		b, err := ipc.Raw.Append(bytes.Clone(dst), in)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ipc.Raw.Append(bytes.Clone(dst), &in)
		if err != nil {
			t.Fatal(err)
		}
		want := append(bytes.Clone(dst), in...)
		if !bytes.Equal(b, want) || !bytes.Equal(p, want) {
			t.Fatalf("got %x and %x, want %x", b, p, want)
		}
		var out []byte
		if err := ipc.Raw.Decode(b[len(dst):], &out); err != nil {
			t.Fatal(err)
		}
		clear(b)
		if !bytes.Equal(out, in) {
			t.Fatalf("got %x, want %x", out, in)
		}
	})
}

func TestRawTakesBytesOnly(t *testing.T) {
	b, err := ipc.Raw.Append([]byte("dst"), "text")
	assert.EqualError(t, err, "tandem: codec raw carries []byte, Buffer and File, not string")
	assert.Equal(t, "dst", string(b))
	var s string
	assert.EqualError(t, ipc.Raw.Decode([]byte("x"), &s), "tandem: codec raw carries []byte, Buffer and File, not what *string points to")
}

func TestFindCodec(t *testing.T) {
	for _, want := range []ipc.Codec{ipc.CBOR, ipc.JSON, ipc.Raw} {
		got, ok := ipc.FindCodec(want.Name())
		assert.True(t, ok)
		assert.Equal(t, want, got)
	}
	_, ok := ipc.FindCodec("xml")
	assert.False(t, ok)
	assert.Equal(t, "cbor json raw", strings.Join([]string{ipc.CBOR.Name(), ipc.JSON.Name(), ipc.Raw.Name()}, " "))
}

// Append is handed memory by its caller and may neither keep nor lend it.
func TestAppendSharesNoMemory(t *testing.T) {
	for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
		t.Run(codec.Name(), func(t *testing.T) {
			dst := make([]byte, 0, 1000)
			first, err := codec.Append(dst, "first")
			require.NoError(t, err)
			assert.Same(t, &dst[:1][0], &first[0], "room in dst is used")
			kept := bytes.Clone(first)
			for range 10 {
				_, err := codec.Append(nil, strings.Repeat("x", 500))
				require.NoError(t, err)
			}
			assert.Equal(t, kept, first)

			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					in := fmt.Sprint("value of goroutine ", g)
					for range 500 {
						b, err := codec.Append(nil, in)
						assert.NoError(t, err)
						var out string
						assert.NoError(t, codec.Decode(b, &out))
						assert.Equal(t, in, out)
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestAppendError(t *testing.T) {
	for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
		for _, v := range []any{make(chan int), func() {}, struct{ C chan int }{}} {
			b, err := codec.Append([]byte("dst"), v)
			assert.Error(t, err, "%s of %T", codec.Name(), v)
			assert.Equal(t, "dst", string(b[:3]))
		}
		b, err := codec.Append([]byte("dst"), "still works")
		require.NoError(t, err)
		var out string
		require.NoError(t, codec.Decode(b[3:], &out))
		assert.Equal(t, "still works", out)
	}
}

func TestDecodeNotAPointer(t *testing.T) {
	for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
		b, err := codec.Append(nil, 1)
		require.NoError(t, err)
		assert.Error(t, codec.Decode(b, 1))
		assert.Error(t, codec.Decode(b, nil))
	}
}

// CBOR is strict: each of these could make a receiver allocate, recurse or
// disagree with another one about what was said.
func TestCBORLimits(t *testing.T) {
	nested := func(n int) []byte { return append(bytes.Repeat([]byte{0x81}, n), 0) }
	for _, c := range []struct {
		name string
		in   []byte
		want string // of the error; "" for none
	}{
		{"nesting of 320", nested(320), ""},
		{"nesting of 321", nested(321), "exceeded max nested level"},
		{"nesting of 1 Mi", nested(1 << 20), "exceeded max nested level"},
		{"array of 16 Mi + 1", []byte{0x9a, 0x01, 0x00, 0x00, 0x01, 0}, "exceeded max number of elements 16777216"},
		{"array of 2^64 - 1", append([]byte{0x9b}, bytes.Repeat([]byte{0xff}, 8)...), "array"},
		{"map of 1 Mi + 1", []byte{0xba, 0x00, 0x10, 0x00, 0x01, 0, 0}, "exceeded max number of key-value pairs 1048576"},
		{"map of 2^64 - 1", append([]byte{0xbb}, bytes.Repeat([]byte{0xff}, 8)...), "map"},
		{"string of 2^63 - 1", []byte{0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "EOF"},
		{"duplicate key", []byte{0xa2, 1, 1, 1, 2}, "duplicate map key"},
		{"indefinite array", []byte{0x9f, 1, 0xff}, "indefinite-length"},
		{"indefinite map", []byte{0xbf, 1, 1, 0xff}, "indefinite-length"},
		{"indefinite bytes", []byte{0x5f, 0x41, 1, 0xff}, "indefinite-length"},
		{"indefinite text", []byte{0x7f, 0x61, 'a', 0xff}, "indefinite-length"},
		{"bytes that follow", []byte{1, 1}, "extraneous"},
		{"nothing", nil, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v any
			err := ipc.CBOR.Decode(c.in, &v)
			if c.want == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, c.want)
			}
		})
	}
	t.Run("array of 16 Mi", func(t *testing.T) {
		in := append([]byte{0x9a, 0x01, 0, 0, 0}, make([]byte, 16<<20)...)
		var out []int8
		assert.NoError(t, ipc.CBOR.Decode(in, &out))
		assert.Len(t, out, 16<<20)
	})
	t.Run("duplicate key of a struct", func(t *testing.T) {
		var out struct{ A int }
		assert.ErrorContains(t, ipc.CBOR.Decode([]byte{0xa2, 0x61, 'A', 1, 0x61, 'A', 2}, &out), "duplicate")
	})
}

func TestCBORKeepsNanoseconds(t *testing.T) {
	in := time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.UTC)
	b, err := ipc.CBOR.Append(nil, in)
	require.NoError(t, err)
	var out time.Time
	require.NoError(t, ipc.CBOR.Decode(b, &out))
	assert.True(t, in.Equal(out), "got %v, want %v", out, in)
}

func TestCBORFloats(t *testing.T) {
	for _, in := range []float64{0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.SmallestNonzeroFloat64, math.MaxFloat64} {
		b, err := ipc.CBOR.Append(nil, in)
		require.NoError(t, err)
		var out float64
		require.NoError(t, ipc.CBOR.Decode(b, &out))
		assert.Equal(t, math.Float64bits(in), math.Float64bits(out))
	}
}

func FuzzCBORDecode(f *testing.F) {
	b, _ := ipc.CBOR.Append(nil, record{Name: "n", Next: &record{}})
	f.Add(b)
	f.Add([]byte{0xa2, 1, 1, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r record
		if ipc.CBOR.Decode(b, &r) == nil {
			if _, err := ipc.CBOR.Append(nil, &r); err != nil {
				t.Errorf("decoded but cannot be encoded: %v", err)
			}
		}
		var v any
		_ = ipc.CBOR.Decode(b, &v)
	})
}

// A Go string may hold any bytes, and arrives as it was.
func TestCBORTextThatIsNotUTF8(t *testing.T) {
	in := map[string]string{"name\xff": "\xfe.txt"}
	b, err := ipc.CBOR.Append(nil, in)
	require.NoError(t, err)
	var out map[string]string
	require.NoError(t, ipc.CBOR.Decode(b, &out))
	require.Equal(t, in, out)
}
