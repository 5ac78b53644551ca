package ipc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

// wide takes much more memory than its shortest encoding, and embeds what does.
type (
	wide   struct{ A [100]int64 }
	Inner  struct{ B [100]int64 }
	nested struct {
		*Inner
		Next []nested `cbor:"n" json:"n"`
		Also map[string]wide
	}
	listed struct {
		_ struct{} `cbor:",toarray"`
		A *wide
		B []wide
	}
)

// cborList is a CBOR array of as many of an item as fit into size bytes, jsonList the same in JSON.
func cborList(size int, item string) []byte {
	n := size / len(item)
	return append(binary.BigEndian.AppendUint32([]byte{0x9a}, uint32(n)), bytes.Repeat([]byte(item), n)...)
}

func jsonList(size int, item string) []byte {
	return []byte("[" + strings.Repeat(item+",", size/(len(item)+1)) + item + "]")
}

// cborMap is a CBOR map of n pairs: keys are numbers of four bytes.
func cborMap(n int, value string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0xba}, uint32(n))
	for i := range n {
		b = append(binary.BigEndian.AppendUint32(append(b, 0x1a), uint32(i+1<<20)), value...)
	}
	return b
}

func cborString(head byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{head}, uint32(len(s))), s...)
}

// message is one that takes more memory, or time, than its size suggests.
type message struct {
	name   string
	codec  ipc.Codec
	body   []byte
	into   func() any
	honest bool // a program may well send it, by the hundred thousands
}

func messages(size int) []message {
	of := func(v any) func() any {
		return func() any { return reflect.New(reflect.TypeOf(v).Elem()).Interface() }
	}
	return []message{
		{"small integers in []any", ipc.CBOR, cborList(size, "\x01"), of(new([]any)), true},
		{"small integers in any", ipc.CBOR, cborList(size, "\x01"), of(new(any)), true},
		{"negative integers in any", ipc.CBOR, cborList(size, "\x20"), of(new(any)), true},
		{"small integers", ipc.CBOR, cborList(size, "\x01"), of(new([]int64)), true},
		{"floats", ipc.CBOR, cborList(size, "\xfb\x40\x09\x21\xfb\x54\x44\x2d\x18"), of(new([]float64)), true},
		{"short strings", ipc.CBOR, cborList(size, "\x61a"), of(new([]string)), true},
		{"short strings in any", ipc.CBOR, cborList(size, "\x63abc"), of(new(any)), true},
		{"empty byte strings", ipc.CBOR, cborList(size, "\x40"), of(new([][]byte)), true},
		{"rows in any", ipc.CBOR, cborList(size, "\xa3\x62id\x19\x03\xe8\x64name\x65abcde\x63qty\x03"), of(new(any)), true},
		{"rows in maps", ipc.CBOR, cborList(size, "\xa3\x62id\x19\x03\xe8\x64name\x65abcde\x63qty\x03"), of(new([]map[string]any)), true},
		{"a map of integers", ipc.CBOR, cborMap(size/6, "\x01"), of(new(map[int64]int64)), true},
		{"a map in any", ipc.CBOR, cborMap(size/6, "\x01"), of(new(any)), true},
		{"times", ipc.CBOR, cborList(size, "\x742006-01-02T15:04:05Z"), of(new([]time.Time)), true},
		{"times of odd zones", ipc.CBOR, cborList(size, "\x78\x192006-01-02T15:04:05+00:03"), of(new([]time.Time)), true},
		{"addresses", ipc.CBOR, cborList(size, "\x6810.0.0.1"), of(new([]netip.Addr)), true},
		{"URLs", ipc.CBOR, cborList(size, "\x58\x1ahttps://example.org/path/a"), of(new([]url.URL)), true},
		{"integers in JSON", ipc.JSON, jsonList(size, "1"), of(new([]int)), true},
		{"integers in any, JSON", ipc.JSON, jsonList(size, "1"), of(new(any)), true},
		{"rows in any, JSON", ipc.JSON, jsonList(size, `{"id":1000,"name":"abcde","qty":3}`), of(new(any)), true},
		{"rows, JSON", ipc.JSON, jsonList(size, `{"id":1000,"Name":"abcde","QTY":3}`), of(new([]struct {
			ID   int
			Name string
			Qty  int
		})), true},

		{"empty maps in any", ipc.CBOR, cborList(size, "\xa0"), of(new(any)), false},
		{"maps of one pair in any", ipc.CBOR, cborList(size, "\xa1\x01\x01"), of(new(any)), false},
		{"empty lists in any", ipc.CBOR, cborList(size, "\x80"), of(new(any)), false},
		{"lists of one in any", ipc.CBOR, cborList(size, "\x81\x01"), of(new(any)), false},
		{"big integers in any", ipc.CBOR, cborList(size, "\xc2\x41\x01"), of(new(any)), false},
		{"times in any", ipc.CBOR, cborList(size, "\xc1\x01"), of(new(any)), false},
		{"tags in any", ipc.CBOR, cborList(size, "\xc6\x01"), of(new(any)), false},
		{"tags of tags", ipc.CBOR, cborList(size, strings.Repeat("\xc6", 300)+"\x01"), of(new(any)), false},
		{"tags of tags, typed", ipc.CBOR, cborList(size, strings.Repeat("\xc6", 300)+"\x01"), of(new([]int)), false},
		{"maps of one pair", ipc.CBOR, cborList(size, "\xa1\x61a\x01"), of(new([]map[string]int)), false},
		{"large structs", ipc.CBOR, cborList(size, "\xa0"), of(new([]wide)), false},
		{"pointers to large structs", ipc.CBOR, cborList(size, "\xa0"), of(new([]*wide)), false},
		{"pointers to pointers", ipc.CBOR, cborList(size, "\xa0"), of(new([]***wide)), false},
		{"large arrays", ipc.CBOR, cborList(size, "\x80"), of(new([][10000]int64)), false},
		{"arrays of much memory", ipc.CBOR, cborList(size, "\x80"), of(new([][1 << 24]struct{ A, B int32 })), false},
		{"large entries", ipc.CBOR, cborMap(size/6, "\xa0"), of(new(map[int]wide)), false},
		{"large keys", ipc.CBOR, []byte("\xa1\xa0\x01"), of(new(map[wide]int)), false},
		{"embedded structs", ipc.CBOR, cborList(size, "\xa1\x61B\x80"), of(new([]nested)), false},
		{"structs in structs", ipc.CBOR, cborList(size, "\xa1\x61n\x81\xa1\x61n\x81\xa1\x64also\xa1\x60\xa0"), of(new([]nested)), false},
		{"structs in another case", ipc.CBOR, cborList(size, "\xa1\x61N\x81\xa0"), of(new([]nested)), false},
		{"structs as arrays", ipc.CBOR, cborList(size, "\x82\xa0\x82\xa0\xa0"), of(new([]listed)), false},
		{"keys that nobody knows", ipc.CBOR, cborMap(size/6, "\x01"), of(new(struct{ A int })), false},
		{"a bool for each integer", ipc.CBOR, cborList(size, "\xf4"), of(new([]int8)), false},
		{"integers that do not fit", ipc.CBOR, cborList(size, "\x19\x03\xe8"), of(new([]int8)), false},
		{"a huge integer", ipc.CBOR, append([]byte{0xc2}, cborString(0x5a, strings.Repeat("\xff", size))...), of(new(int)), false},
		{"a huge big.Int", ipc.CBOR, append([]byte{0xc2}, cborString(0x5a, strings.Repeat("\xff", size))...), of(new(big.Int)), true},
		{"no times", ipc.CBOR, cborList(size, "\x61x"), of(new([]time.Time)), false},
		{"no addresses", ipc.CBOR, cborList(size, "\x61x"), of(new([]netip.Addr)), false},
		{"short URLs", ipc.CBOR, cborList(size, "\x41x"), of(new([]url.URL)), false},
		{"exponents", ipc.CBOR, cborList(size, "\x691e1000000"), of(new([]big.Rat)), false},
		{"a huge big.Rat", ipc.CBOR, cborString(0x7a, strings.Repeat("7", size)), of(new(big.Rat)), false},
		{"repetitions", ipc.CBOR, cborList(size, "\x67x{1000}"), of(new([]regexp.Regexp)), false},
		{"tables", ipc.CBOR, cborList(size, "\x65\\pL\\w"), of(new([]regexp.Regexp)), false},
		{"maps of one pair, JSON", ipc.JSON, jsonList(size, `{"":1}`), of(new(any)), false},
		{"empty maps, JSON", ipc.JSON, jsonList(size, `{}`), of(new(any)), false},
		{"empty lists, JSON", ipc.JSON, jsonList(size, `[]`), of(new(any)), false},
		{"large structs, JSON", ipc.JSON, jsonList(size, `{}`), of(new([]wide)), false},
		{"pointers to large structs, JSON", ipc.JSON, jsonList(size, `{}`), of(new([]*wide)), false},
		{"large arrays, JSON", ipc.JSON, jsonList(size, `[]`), of(new([][10000]int64)), false},
		{"structs in structs, JSON", ipc.JSON, jsonList(size, ` { "\u006e" : [{"N":[{}]}], "x": [[{"\"":0}]], "b":[] , "Also":{"":{}}} `), of(new([]nested)), false},
		{"a huge integer, JSON", ipc.JSON, []byte(strings.Repeat("7", size)), of(new(big.Int)), false},
		{"exponents, JSON", ipc.JSON, jsonList(size, `"1e1000000"`), of(new([]big.Rat)), false},
		{"a string that is not UTF-8, JSON", ipc.JSON, []byte(`"` + strings.Repeat("\xff", size) + `"`), of(new(string)), true},
	}
}

// within decodes a message within a bound, and returns how much memory the result occupies.
func within(t *testing.T, m message, bound int) (live int64, err error) {
	t.Helper()
	codec := ipc.NewMethod[int, int]("bound", ipc.WithMaxDecoded(bound), ipc.WithCodec(m.codec)).Codec(nil)
	v := m.into()
	before := liveHeap()
	err = codec.Decode(m.body, v)
	live = liveHeap() - before
	runtime.KeepAlive(v)
	return live, err
}

func liveHeap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func tooLarge(err error) bool { return ipc.CodeOf(err) == ipc.CodeResourceExhausted }

// Whatever a message is, and whatever it is decoded into: it is decoded within the bound, or
// refused before anything of it is.
func TestDecodingIsBounded(t *testing.T) {
	for _, m := range messages(128 << 10) {
		t.Run(m.name, func(t *testing.T) {
			for bound := 64 << 10; bound <= 64<<20; bound *= 32 {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				live, err := within(t, m, bound)
				runtime.ReadMemStats(&after)
				if tooLarge(err) {
					require.ErrorContains(t, err, "more than "+strconv.Itoa(bound)+" bytes")
					require.ErrorContains(t, err, "WithMaxDecoded")
					require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), "refused before it is decoded")
					continue
				}
				require.Less(t, live, int64(bound)*5/4+32<<10, "decoded within the bound of %d: %v", bound, err)
				if !raceEnabled {
					require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(6*bound)+1<<20, "with what became garbage: %d, %v", bound, err)
				}
			}
		})
	}
}

// What honest programs send is decoded, however much there is of it: it does not count for more than
// the bound that grows with the size of the message.
func TestHonestMessagesAreDecoded(t *testing.T) {
	const factor = 32
	for _, m := range messages(128 << 10) {
		if !m.honest {
			continue
		}
		live, err := within(t, m, factor*len(m.body))
		require.NoError(t, err, m.name)
		t.Logf("%s: %.1f times its size", m.name, float64(live)/float64(len(m.body)))
	}
}

// Without an option a message may take 256 MiB, or 32 times its size.
func TestDefaultBound(t *testing.T) {
	const each = 8 * 10000
	into := new([][10000]int64)
	require.NoError(t, ipc.CBOR.Decode(cborList(100, "\x80"), into), "100 elements of %d bytes", each)
	require.Len(t, *into, 100)
	*into = nil
	err := ipc.CBOR.Decode(cborList(256<<20/each+10, "\x80"), into)
	require.True(t, tooLarge(err), "%v", err)
	require.ErrorContains(t, err, "more than 268435456 bytes")
	require.Nil(t, *into)
	err = ipc.JSON.Decode(jsonList(3*256<<20/each, "[]"), into)
	require.True(t, tooLarge(err), "%v", err)
	err = ipc.CBOR.Decode(cborList(16<<20, "\xa1\x01\x01"), new(any))
	require.ErrorContains(t, err, "more than 536871040 bytes")

	// What an any holds is decoded into, as its type says.
	var held any = into
	require.True(t, tooLarge(ipc.CBOR.Decode(cborList(1<<20, "\x80"), &held)))
}

// The error has the code that says so, on whichever side it is, and the limit of a method
// changes nothing else of it.
func TestErrorOfTheBound(t *testing.T) {
	m := ipc.NewMethod[int, []wide]("m", ipc.WithMaxDecoded(1000))
	require.Equal(t, ipc.NewMethod[int, []wide]("m").Info(), m.Info())
	require.Equal(t, "cbor", m.Codec(ipc.CBOR).Name())
	require.Equal(t, "json", m.Codec(ipc.JSON).Name())
	require.Equal(t, ipc.Raw, m.Codec(ipc.Raw))
	answer := fixedAnswer(cborList(2, "\xa0"))
	check := func(err error) {
		t.Helper()
		require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err), "%v", err)
		require.ErrorContains(t, err, `decode the response of "m": `)
		var e *ipc.Error
		require.ErrorAs(t, err, &e)
		require.False(t, e.Remote())
	}
	_, err := m.Call(t.Context(), answer, 1)
	check(err)
	check(m.CallInto(t.Context(), answer, 1, new([]wide)))
	f, err := m.Go(t.Context(), answer, 1)
	require.NoError(t, err)
	_, err = f.Wait(t.Context())
	check(err)
	for _, bound := range []int{0, -1, math.MinInt} {
		require.PanicsWithValue(t, "tandem: WithMaxDecoded("+strconv.Itoa(bound)+"): need a positive number", func() { ipc.WithMaxDecoded(bound) })
	}
	for _, bound := range []int{math.MaxInt, math.MaxInt - 1} {
		got, err := ipc.NewMethod[int, []wide]("m", ipc.WithMaxDecoded(bound)).Call(t.Context(), answer, 1)
		require.NoError(t, err)
		require.Len(t, got, 2)
	}
	_, err = ipc.NewMethod[int, []wide]("m", ipc.WithMaxDecoded(1)).Call(t.Context(), answer, 1)
	check(err)
}

// fixedAnswer answers each request alike.
type fixedAnswer []byte

func (fixedAnswer) Codec() ipc.Codec { return ipc.CBOR }
func (a fixedAnswer) Invoke(context.Context, *ipc.Invocation, []byte, []byte) ([]byte, error) {
	return bytes.Clone(a), nil
}

// FuzzBound looks for input on which the count fails, or that takes much more memory than
// was counted.
func FuzzBound(f *testing.F) {
	for _, m := range messages(300) {
		f.Add(m.body)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkBoundOf(t, b) })
}

// Input that is cut, or has bytes changed, is counted without a fault.
func TestBoundOfBrokenInput(t *testing.T) {
	all := messages(300)
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(rapid.SampledFrom(all).Draw(t, "message").body)
		b = b[:rapid.IntRange(0, len(b)).Draw(t, "size")]
		for range rapid.IntRange(0, 4).Draw(t, "changes") {
			if len(b) > 0 {
				b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte(`{}[]",:\n`))).Draw(t, "byte")
			}
		}
		checkBoundOf(t, b)
	})
}

func checkBoundOf(t rapid.TB, b []byte) {
	const bound = 1 << 20
	for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
		codec := ipc.NewMethod[int, int]("bound", ipc.WithMaxDecoded(bound), ipc.WithCodec(codec)).Codec(nil)
		for _, v := range []any{new(any), new(record), new([]nested), new([]listed), new([][10000]int64), new([]*wide), new(map[string]map[string]nested)} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_ = codec.Decode(b, v)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 6*bound {
				t.Errorf("%s: %d bytes for %x into %T", codec.Name(), n, b, v)
			}
		}
	}
}
