package ipc_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"time"

	"pgregory.net/rapid"
)

// Types as users have them, for what reflect cannot make: with methods, and embedded.
type (
	Level  int8                  // encodes itself, with a value's method
	Secret struct{ s string }    // encodes itself, with a pointer's method
	Packed struct{ a, b uint16 } // encodes itself in bytes
	Plain  struct{ N, M int }    // encodes nothing itself
	Named  string                // has no methods
	Bytes  []byte                // likewise
	NByte  byte                  // likewise
	lower  struct{ L int }       // is not exported
	Outer  struct {
		Plain
		N string
	} //nolint:govet // hides a field
	Twice struct {
		Plain
		Other
	}
	Other struct{ N, O int }
	ByPtr struct {
		*Plain
		X int
	}
	ByLower struct {
		lower
		X int
	}
	PtrLow struct {
		*lower
		X int
	}
	Tagged struct {
		Plain `json:"plain"`
		N     int
	}
	Stamped struct {
		time.Time
		N int
	} // what it embeds encodes it
	Stamp   struct{ time.Time }
	Leveled struct {
		Level
		N int
	}
	SameC struct {
		A int `cbor:"x"`
		B int `cbor:"x"`
	}
	TagWins struct {
		A int `json:"B"`
		B int
	}
	Diamond struct {
		Left
		Right
	}
	Left struct {
		Plain
		L int
	}
	Right struct {
		Plain
		R int
	}
	Ints struct {
		A int    `cbor:"1,keyasint"`
		B string `cbor:"-2,keyasint"`
	}
	List struct {
		_ struct{} `cbor:",toarray"`
		A int
		B string
	}
	Node struct {
		V    int
		Next *Node
		More []Node
	}
	Hidden struct {
		A int
		b int
	}
)

func (l Level) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "L%d", int8(l)), nil }
func (l *Level) UnmarshalText(b []byte) error {
	_, err := fmt.Sscanf(string(b), "L%d", (*int8)(l))
	return err
}
func (s *Secret) MarshalText() ([]byte, error)   { return []byte("<" + s.s + ">"), nil }
func (s *Secret) UnmarshalText(b []byte) error   { s.s = strings.Trim(string(b), "<>"); return nil }
func (p Packed) MarshalBinary() ([]byte, error)  { return []byte{byte(p.a), byte(p.b)}, nil }
func (p *Packed) UnmarshalBinary(b []byte) error { p.a, p.b = uint16(b[0]), uint16(b[1]); return nil }

// leaves are types that values of all kinds of types are made of.
var leaves = []reflect.Type{
	reflect.TypeFor[bool](), reflect.TypeFor[int](), reflect.TypeFor[int8](), reflect.TypeFor[int16](), reflect.TypeFor[int32](), reflect.TypeFor[int64](),
	reflect.TypeFor[uint](), reflect.TypeFor[uint8](), reflect.TypeFor[uint16](), reflect.TypeFor[uint32](), reflect.TypeFor[uint64](), reflect.TypeFor[uintptr](),
	reflect.TypeFor[float32](), reflect.TypeFor[float64](), reflect.TypeFor[string](), reflect.TypeFor[[]byte](), reflect.TypeFor[[3]byte](), reflect.TypeFor[any](),
	reflect.TypeFor[time.Time](), reflect.TypeFor[time.Duration](), reflect.TypeFor[big.Int](), reflect.TypeFor[big.Rat](), reflect.TypeFor[netip.Addr](),
	reflect.TypeFor[netip.Prefix](), reflect.TypeFor[url.URL](), reflect.TypeFor[regexp.Regexp](), reflect.TypeFor[json.RawMessage](), reflect.TypeFor[json.Number](),
	reflect.TypeFor[Level](), reflect.TypeFor[Secret](), reflect.TypeFor[Packed](), reflect.TypeFor[Plain](), reflect.TypeFor[Named](), reflect.TypeFor[Bytes](),
	reflect.TypeFor[[]NByte](), reflect.TypeFor[Outer](), reflect.TypeFor[Twice](), reflect.TypeFor[ByPtr](), reflect.TypeFor[ByLower](), reflect.TypeFor[PtrLow](),
	reflect.TypeFor[Tagged](), reflect.TypeFor[Stamped](), reflect.TypeFor[Stamp](), reflect.TypeFor[Leveled](), reflect.TypeFor[SameC](),
	reflect.TypeFor[TagWins](), reflect.TypeFor[Diamond](), reflect.TypeFor[Ints](), reflect.TypeFor[List](), reflect.TypeFor[Node](), reflect.TypeFor[Hidden](),
	reflect.TypeFor[struct{}](), reflect.TypeFor[onlyText](), reflect.TypeFor[onlyJSON](), reflect.TypeFor[oneWay](), reflect.TypeFor[error](),
	reflect.TypeFor[complex64](), reflect.TypeFor[chan int](), reflect.TypeFor[func()](),
}

var tags = []reflect.StructTag{
	"", "", "", `json:"x"`, `json:"y,omitempty"`, `cbor:"z"`, `cbor:"B"`, `cbor:",omitempty"`, `cbor:"7,keyasint"`, `cbor:"8,keyasint,omitempty"`,
	`json:"-"`, `cbor:"-"`, `json:"-,"`, `json:",string"`, `cbor:",omitzero"`, `json:",omitzero"`, `cbor:"" json:"w"`, `json:"b"`, `json:"a b!"`,
}

// genType makes types of types.
func genType(depth int) *rapid.Generator[reflect.Type] {
	return rapid.Custom(func(t *rapid.T) reflect.Type {
		if depth == 0 {
			return rapid.SampledFrom(leaves).Draw(t, "leaf")
		}
		inner := func() reflect.Type { return genType(depth-1).Draw(t, "inner") }
		switch rapid.IntRange(0, 6).Draw(t, "kind") {
		case 0:
			return inner()
		case 1:
			return reflect.PointerTo(inner())
		case 2:
			return reflect.SliceOf(inner())
		case 3:
			return reflect.ArrayOf(rapid.IntRange(0, 3).Draw(t, "length"), inner())
		case 4:
			key := inner()
			for !key.Comparable() {
				key = genType(0).Draw(t, "key")
			}
			return reflect.MapOf(key, inner())
		}
		var fields []reflect.StructField
		for i := range rapid.IntRange(0, 4).Draw(t, "fields") {
			fields = append(fields, reflect.StructField{Name: string(rune('A' + i)), Type: inner(), Tag: rapid.SampledFrom(tags).Draw(t, "tag")})
		}
		return reflect.StructOf(fields)
	})
}

// fill makes v a random value of its type.
func fill(t *rapid.T, v reflect.Value, depth int) {
	if !v.CanSet() {
		return
	}
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		zone := rapid.SampledFrom([]*time.Location{time.UTC, time.UTC, time.FixedZone("", 3600), time.FixedZone("odd", 3*3600+28)}).Draw(t, "zone")
		*p = rapid.SampledFrom([]time.Time{{}, time.Unix(0, 0).In(zone), time.Unix(1<<31, 123456789).In(zone), time.Date(-1, 1, 1, 0, 0, 0, 0, zone), time.Date(10000, 1, 1, 0, 0, 0, 1, zone)}).Draw(t, "time")
		return
	case *big.Int:
		p.SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "big"))
		if rapid.Bool().Draw(t, "negative") {
			p.Neg(p)
		}
		return
	case *big.Rat:
		p.SetFrac64(rapid.Int64().Draw(t, "a"), rapid.Int64Range(1, math.MaxInt64).Draw(t, "b"))
		return
	case *netip.Addr:
		*p = rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("1.2.3.4"), netip.MustParseAddr("::ffff:1.2.3.4"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("::1").WithZone("\xff")}).Draw(t, "addr")
		return
	case *netip.Prefix:
		*p = rapid.SampledFrom([]netip.Prefix{{}, netip.MustParsePrefix("10.0.0.0/8")}).Draw(t, "prefix")
		return
	case *url.URL:
		*p = url.URL{Scheme: "https", Host: "example.org", Path: "/a b", RawQuery: "q=1"}
		return
	case *regexp.Regexp:
		*p = *regexp.MustCompile(rapid.SampledFrom([]string{"", "a+", "[^\\d]"}).Draw(t, "regexp"))
		return
	case *json.RawMessage:
		*p = rapid.SampledFrom([]json.RawMessage{json.RawMessage(`{"a":"\ufffd"}`), json.RawMessage(`1`)}).Draw(t, "raw")
		return
	case *json.Number:
		*p = rapid.SampledFrom([]json.Number{"1", "-2.50", "1e400"}).Draw(t, "number")
		return
	case *Outer:
		p.M, p.N = 3, genString(t) // what it hides would stay behind, as in Go
		return
	case *Secret:
		p.s = rapid.StringN(0, 5, -1).Draw(t, "secret")
		p.s = strings.Trim(p.s, "<>")
		return
	case *onlyText:
		p.s = strings.Trim(rapid.StringN(0, 5, -1).Draw(t, "text"), "<>")
		return
	case *onlyJSON:
		p.n = rapid.IntRange(0, 100).Draw(t, "n")
		return
	case *Packed:
		p.a, p.b = uint16(rapid.Byte().Draw(t, "a")), uint16(rapid.Byte().Draw(t, "b"))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "bool"))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, "int"))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(rapid.Uint64().Draw(t, "uint"))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1)})).Draw(t, "float"))
	case reflect.String:
		v.SetString(genString(t))
	case reflect.Pointer:
		if depth < 8 && rapid.Bool().Draw(t, "pointer") {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem(), depth+1)
		}
	case reflect.Slice:
		if n := rapid.IntRange(-1, 3).Draw(t, "length"); n >= 0 && depth < 8 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
		}
		for i := range v.Len() {
			fill(t, v.Index(i), depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), depth+1)
		}
	case reflect.Map:
		n := rapid.IntRange(-1, 3).Draw(t, "pairs")
		if n >= 0 {
			v.Set(reflect.MakeMap(v.Type()))
		}
		for range n {
			key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(t, key, depth+1)
			fill(t, elem, depth+1)
			if key.Comparable() {
				v.SetMapIndex(key, elem)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), depth+1)
		}
	case reflect.Interface:
		if v.NumMethod() == 0 && depth < 8 {
			if x := genAny(t, depth); x != nil {
				v.Set(reflect.ValueOf(x))
			}
		}
	}
}

func genString(t *rapid.T) string {
	return rapid.OneOf(rapid.StringN(0, 6, -1), rapid.SampledFrom([]string{"\xff", "a\x00b", "<&>\u2028", `\ufffd`, "\ufffd", "\xed\xa0\x80"})).Draw(t, "string")
}

func genAny(t *rapid.T, depth int) any {
	of := []any{
		nil, true, 5, int8(-3), uint64(math.MaxUint64), int64(math.MinInt64), int64(1<<53 + 1), 1.5, float32(0.1), math.NaN(), "text", []byte{1, 2}, Level(3), Plain{1, 2}, Named("n"),
		[]int{1, 2}, map[string]int{"a": 1}, time.Unix(1, 5).UTC(), &Plain{3, 4}, time.Second, *big.NewInt(77), *new(big.Int).Lsh(big.NewInt(1), 70), map[int]string{1: "x"}, map[any]any{},
		[]any{}, []any(nil), (*int)(nil), [2]int{1, 2}, make(chan int), func() {}, 1i, fmt.Errorf("x"),
	}
	i := rapid.IntRange(-3, len(of)-1).Draw(t, "any")
	switch i {
	case -1:
		return genString(t)
	case -2:
		return []any{genAny(t, depth+1)}
	case -3:
		return map[string]any{genString(t): genAny(t, depth+1)}
	}
	return of[i]
}
