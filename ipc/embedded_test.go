package ipc_test

import (
	"bytes"
	"fmt"
	"math/big"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// A type that decodes itself by the method of a pointer that it embeds would call it on
// nil, and one that embeds a big.Float would lose its precision.
func TestEmbeddedDecoders(t *testing.T) {
	type amount struct{ *big.Int }
	type pattern struct{ *regexp.Regexp }
	type link struct{ *url.URL }
	type inner struct{ *big.Rat }
	type outer struct{ inner }
	type measure struct{ big.Float }
	for want, declare := range map[string]func(opts ...ipc.MethodOption){
		"of a pointer that it embeds": func(opts ...ipc.MethodOption) { ipc.NewMethod[amount, int]("m", opts...) },
		"embed regexp.Regexp without": func(opts ...ipc.MethodOption) { ipc.NewMethod[int, []pattern]("m", opts...) },
		"embed url.URL without":       func(opts ...ipc.MethodOption) { ipc.NewMethod[link, int]("m", opts...) },
		"embed big.Rat without":       func(opts ...ipc.MethodOption) { ipc.NewMethod[outer, int]("m", opts...) },
		"embeds a big.Float":          func(opts ...ipc.MethodOption) { ipc.NewMethod[measure, int]("m", opts...) },
	} {
		for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
			if codec == ipc.JSON && strings.Contains(want, "url.URL") {
				continue // it has no text there
			}
			func() {
				defer func() { require.Contains(t, fmt.Sprint(recover()), want, "%s", codec.Name()) }()
				declare(ipc.WithCodec(codec))
			}()
		}
	}
}

// What a type takes to decode is that of the type whose method it has, also if it embeds
// that.
func TestBoundOfEmbeddedDecoders(t *testing.T) {
	type money struct{ big.Rat }
	type number struct{ big.Int }
	type pattern struct{ regexp.Regexp }
	many := func(text string, n int) (list []string) {
		for range n {
			list = append(list, text)
		}
		return list
	}
	for _, c := range []struct {
		codec ipc.Codec
		texts []string
		into  any
	}{
		{ipc.CBOR, many("1e999999", 100), new([]money)},
		{ipc.JSON, many("1e999999", 100), new([]money)},
		{ipc.CBOR, many(strings.Repeat("9", 1<<20), 1), new([]number)},
		{ipc.CBOR, many(strings.Repeat("(a{1,9}){1,9}", 300), 10), new([]pattern)},
	} {
		data, err := c.codec.Append(nil, c.texts)
		require.NoError(t, err)
		err = c.codec.Decode(data, c.into)
		require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err), "%s into %T: %v", c.codec.Name(), c.into, err)
	}
}

// Keys that no field has, or in another case, take no time for each field.
func BenchmarkUnknownKeys(b *testing.B) {
	var fields []reflect.StructField
	for i := range 1000 {
		fields = append(fields, reflect.StructField{Name: fmt.Sprintf("Field%d", i), Type: reflect.TypeFor[int]()})
	}
	into := reflect.New(reflect.StructOf(fields)).Interface()
	unknown := make(map[string]int)
	for i := range 100_000 {
		unknown[fmt.Sprintf("unknown%d", i)] = 1
	}
	data, err := ipc.CBOR.Append(nil, unknown)
	require.NoError(b, err)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := ipc.CBOR.Decode(data, into); err != nil {
			b.Fatal(err)
		}
	}
}

// Keys find their fields whatever their case, as the decoders do it.
func TestKeysInAnotherCase(t *testing.T) {
	type deep struct{ Kelvin, Straße []string }
	for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
		for _, key := range []string{"Kelvin", "kelvin", "KELVIN"} {
			data, err := codec.Append(nil, map[string][]string{key: {"a", "b"}})
			require.NoError(t, err)
			var got deep
			require.NoError(t, codec.Decode(bytes.Clone(data), &got))
			require.Equal(t, []string{"a", "b"}, got.Kelvin, "%s %q", codec.Name(), key)
		}
	}
}
