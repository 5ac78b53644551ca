package ipc_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// onlyText, onlyJSON and onlyOneWay have encodings of their own.
type (
	onlyText struct{ s string }
	onlyJSON struct{ n int }
	oneWay   struct{ s string }
)

func (v onlyText) MarshalText() ([]byte, error)  { return []byte("<" + v.s + ">"), nil }
func (v *onlyText) UnmarshalText(b []byte) error { v.s = strings.Trim(string(b), "<>"); return nil }
func (v onlyJSON) MarshalJSON() ([]byte, error)  { return fmt.Appendf(nil, `{"n":%d}`, v.n), nil }
func (v *onlyJSON) UnmarshalJSON(b []byte) error {
	_, err := fmt.Sscanf(string(b), `{"n":%d}`, &v.n)
	return err
}
func (v oneWay) MarshalText() ([]byte, error) { return []byte(v.s), nil }

// tree is nested as deep as it likes.
type tree struct {
	Name     string
	Children []*tree
	Table    map[string]any
}

// roundTrip declares a method of T, sends v through it, and returns what arrives. A panic
// of NewMethod is an error.
func roundTrip[T any](codec ipc.Codec, v T) (got T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("refused: %v", p)
		}
	}()
	m := ipc.NewMethod[T, T]("travel", ipc.WithCodec(codec))
	return m.Call(context.Background(), mirror{}, v)
}

// mirror answers each request with itself.
type mirror struct{}

func (mirror) Codec() ipc.Codec { return ipc.CBOR }
func (mirror) Invoke(_ context.Context, _ *ipc.Invocation, request, _ []byte) ([]byte, error) {
	return bytes.Clone(request), nil
}

// arrives checks that v arrives equal, or is refused.
func arrives[T any](t *testing.T, v T, equal func(a, b T) bool) {
	t.Helper()
	if equal == nil {
		equal = func(a, b T) bool { return reflect.DeepEqual(a, b) }
	}
	for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
		got, err := roundTrip(codec, v)
		require.NoError(t, err, "%T", v)
		require.True(t, equal(v, got), "%s: %T: %#v arrived as %#v", codec.Name(), v, v, got)
	}
}

func TestStandardTypesArrive(t *testing.T) {
	arrives(t, *new(big.Int).Lsh(big.NewInt(-12345), 300), func(a, b big.Int) bool { return a.Cmp(&b) == 0 })
	arrives(t, *big.NewRat(-22, 7), func(a, b big.Rat) bool { return a.Cmp(&b) == 0 })
	arrives(t, *regexp.MustCompile(`a(b|c)+$`), func(a, b regexp.Regexp) bool { return a.String() == b.String() })
	arrives(t, netip.MustParseAddr("fe80::1%eth0"), nil)
	arrives(t, netip.MustParsePrefix("10.0.0.0/8"), nil)
	arrives(t, netip.MustParseAddrPort("[::1]:80"), nil)
	arrives(t, net.IPv4(1, 2, 3, 4), net.IP.Equal)
	u, err := url.Parse("https://user:pass@example.org/a%2Fb?q=1#f")
	require.NoError(t, err)
	gotURL, err := roundTrip(ipc.CBOR, *u)
	require.NoError(t, err)
	require.Equal(t, *u, gotURL)
	arrives(t, slog.LevelWarn, nil)
	arrives(t, 90*time.Minute, nil)
	arrives(t, sql.NullString{String: "x", Valid: true}, nil)
	arrives(t, sql.NullTime{Time: time.Unix(1, 2).UTC(), Valid: true}, nil)
	arrives(t, json.RawMessage(`{"a":[1,2]}`), nil)
	arrives(t, json.Number("12.50"), nil)
	arrives(t, http.Header{"A": {"b", "c"}}, nil)
	arrives(t, time.March, nil)
	arrives(t, onlyText{"x"}, nil)
	arrives(t, []onlyText{{"x"}, {"y"}}, nil)
	got, err := roundTrip(ipc.JSON, map[string]onlyJSON{"a": {1}})
	require.NoError(t, err)
	require.Equal(t, 1, got["a"].n)
	arrives(t, struct{ P *onlyText }{&onlyText{"x"}}, nil)
	arrives(t, uint64(math.MaxUint64), nil)
	arrives(t, struct {
		A [2]uint8
		M map[int]string
		P **int
	}{M: map[int]string{-1: "x"}}, nil)
	for _, zone := range []*time.Location{time.UTC, time.FixedZone("odd", 3*3600+28), time.FixedZone("west", -9*3600-1800)} {
		in := time.Date(1883, 11, 18, 12, 3, 58, 987654321, zone)
		got, err := roundTrip(ipc.CBOR, in)
		require.NoError(t, err)
		require.True(t, in.Equal(got), "%v arrived as %v", in, got)
	}
}

func TestWhatCannotTravelIsRefused(t *testing.T) {
	for _, c := range []struct {
		err  func() error
		want string
	}{
		{func() error { _, err := roundTrip(ipc.CBOR, make(chan int)); return err }, "chan int is a chan"},
		{func() error { _, err := roundTrip(ipc.JSON, struct{ F func() }{}); return err }, ".F is a func"},
		{func() error { _, err := roundTrip(ipc.CBOR, struct{ A []struct{ E error } }{}); return err }, ".A[].E is an interface with methods"},
		{func() error { _, err := roundTrip(ipc.CBOR, map[string]complex128{}); return err }, "complex128"},
		{func() error { _, err := roundTrip(ipc.CBOR, &bytes.Buffer{}); return err }, "none is exported"},
		{func() error { _, err := roundTrip(ipc.CBOR, struct{ M *sync.Mutex }{}); return err }, ".M has fields, and none is exported"},
		{func() error { _, err := roundTrip(ipc.CBOR, *big.NewFloat(0.1)); return err }, "big.Float"},
		{func() error { _, err := roundTrip(ipc.CBOR, []onlyJSON{{1}}); return err }, "[] has MarshalJSON for what it does not export"},
		{func() error { _, err := roundTrip(ipc.CBOR, oneWay{"x"}); return err }, "MarshalText without UnmarshalText"},
	} {
		err := c.err()
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, `tandem: method "travel"`)
	}
	type a struct{ N, A int }
	type b struct{ N, B int }
	_, err := roundTrip(ipc.CBOR, struct {
		a
		b
	}{})
	require.ErrorContains(t, err, "has two fields of the name N")
	nested, err := roundTrip(ipc.CBOR, struct {
		a
		N string
	}{a{1, 2}, "x"})
	require.NoError(t, err, "the outer field wins, as in Go")
	require.Equal(t, 2, nested.A)

	type stays struct {
		N int
		F func() `cbor:"-"`
	}
	got, err := roundTrip(ipc.CBOR, stays{N: 1, F: func() {}})
	require.NoError(t, err, "a field that is left out is nobody's business")
	require.Equal(t, 1, got.N)
}

// However deep a value is, it arrives, or its sender is told; one that contains itself is
// refused, and ends no process.
func TestDepth(t *testing.T) {
	chain := func(n int) *tree {
		top := &tree{Name: "0"}
		for at := top; n > 1; n-- {
			next := &tree{Name: fmt.Sprint(n)}
			at.Children = []*tree{next}
			at = next
		}
		return top
	}
	refused := false
	for n := 1; n < 600; n += 1 + n/8 {
		in := chain(n)
		got, err := roundTrip(ipc.CBOR, in)
		var e *ipc.Error
		switch {
		case err == nil:
			require.Equal(t, in, got, "%d levels", n)
			require.False(t, refused, "%d levels", n)
		case errors.As(err, &e):
			require.Equal(t, ipc.CodeInvalidArgument, e.Code, "the sender is told: %v", err)
			require.Greater(t, n, 80)
			refused = true
		}
	}
	require.True(t, refused)

	circle := &tree{}
	circle.Children = []*tree{circle, circle}
	_, err := roundTrip(ipc.CBOR, circle)
	require.ErrorContains(t, err, "contains itself")
	table := map[string]any{}
	table["self"] = []any{table}
	_, err = roundTrip(ipc.CBOR, table)
	require.ErrorContains(t, err, "contains itself")
	_, err = roundTrip(ipc.CBOR, any(table))
	require.ErrorContains(t, err, "contains itself")
}

// Values that would arrive as something else are refused, by their types if these say it.
func TestWhatWouldChangeIsRefused(t *testing.T) {
	type word struct{ int } //nolint:unused // not exported
	for _, c := range []struct {
		name string
		send func() error
		want string
	}{
		{"two fields of one tag", func() error { _, err := roundTrip(ipc.CBOR, SameC{1, 2}); return err }, "two fields of the name x"},
		{"a tag that is the name of another field", func() error { _, err := roundTrip(ipc.JSON, TagWins{1, 2}); return err }, "two fields of the name B"},
		{"one struct embedded twice", func() error { _, err := roundTrip(ipc.CBOR, Diamond{}); return err }, "two fields of the name Plain"},
		{"fields beside an embedded time", func() error { _, err := roundTrip(ipc.CBOR, Stamped{N: 1}); return err }, "of Time, which it embeds"},
		{"fields beside an embedded level", func() error { _, err := roundTrip(ipc.JSON, Leveled{N: 1}); return err }, "MarshalText of Level, which it embeds"},
		{"an embedded number", func() error { _, err := roundTrip(ipc.CBOR, word{1}); return err }, "none is exported"},
		{"a pointer to an embedded struct that is not exported", func() error { _, err := roundTrip(ipc.CBOR, PtrLow{lower: &lower{1}}); return err }, "is a pointer to an embedded struct"},
		{"a pointer as a key", func() error { _, err := roundTrip(ipc.CBOR, map[*int]int{new(int): 1}); return err }, "[key] is a pointer"},
		{"a key that leaves a field behind", func() error { _, err := roundTrip(ipc.CBOR, map[Hidden]int{{1, 2}: 1}); return err }, "[key].b stays behind"},
		{"a key that is no text", func() error { _, err := roundTrip(ipc.JSON, map[float64]int{1: 1}); return err }, "keys in JSON are text"},
		{"a method of a pointer, in a map", func() error { _, err := roundTrip(ipc.JSON, map[string]big.Int{"a": *big.NewInt(1)}); return err }, "in a map or an any"},
		{"a string as a number's string", func() error {
			_, err := roundTrip(ipc.JSON, struct {
				L Level `json:",string"`
			}{1})
			return err
		}, "leave the tag out"},
		{"nothing exported, in an any", func() error { _, err := roundTrip(ipc.CBOR, any([]any{bytes.NewBufferString("x")})); return err }, "none is exported"},
		{"a big.Float in an any", func() error { _, err := roundTrip(ipc.CBOR, map[string]any{"a": big.NewFloat(1)}); return err }, "big.Float"},
		{"a method of a pointer, in an any", func() error { _, err := roundTrip(ipc.JSON, any(*big.NewInt(1))); return err }, "in a map or an any"},
		{"a struct as a key in an any", func() error { _, err := roundTrip(ipc.CBOR, map[any]int{Plain{1, 2}: 1}); return err }, "is the key of a map, in an any"},
		{"a large integer in an any", func() error { _, err := roundTrip(ipc.JSON, any(int64(1<<53+1))); return err }, "9007199254740993 in an any"},
		{"a large big.Int in an any", func() error { _, err := roundTrip(ipc.JSON, any(new(big.Int).Lsh(big.NewInt(1), 54))); return err }, "18014398509481984 in an any"},
		{"the least integer in an any", func() error { _, err := roundTrip(ipc.JSON, any(int64(math.MinInt64))); return err }, "-9223372036854775808 in an any"},
		{"text that is not UTF-8", func() error { _, err := roundTrip(ipc.JSON, map[string]string{"a": "b\xff"}); return err }, `not UTF-8, as "b\xff"`},
		{"a key that is not UTF-8", func() error { _, err := roundTrip(ipc.JSON, map[string]any{"a\xff": 1}); return err }, `not UTF-8, as "a\xff"`},
		{"what MarshalText makes is not UTF-8", func() error { _, err := roundTrip(ipc.JSON, []onlyText{{"\xff"}}); return err }, "not UTF-8"},
		{"seconds of a zone", func() error {
			_, err := roundTrip(ipc.JSON, Stamp{time.Unix(1, 0).In(time.FixedZone("odd", 28))})
			return err
		}, "seconds of the zone"},
		{"an empty number", func() error { _, err := roundTrip(ipc.JSON, json.Number("")); return err }, "empty json.Number"},
	} {
		require.ErrorContains(t, c.send(), c.want, c.name)
	}
	huge := new(big.Int).Lsh(big.NewInt(-1), 100)
	gotAny, err := roundTrip(ipc.CBOR, any(huge))
	require.NoError(t, err)
	require.Equal(t, *huge, gotAny)
	// What looks like it, and arrives.
	arrives(t, "\ufffd \\ufffd", nil)
	arrives(t, any("\ufffd"), nil)
	arrives(t, any(true), nil)
	arrives(t, json.RawMessage(`"\ufffd"`), nil)
	arrives(t, Stamp{time.Unix(1, 0).UTC()}, func(a, b Stamp) bool { return a.Equal(b.Time) })
	arrives(t, ByLower{lower{1}, 2}, nil)
	arrives(t, struct{ A, a int }{1, 0}, nil)
	gotAny, err = roundTrip(ipc.JSON, any(int64(1<<53)))
	require.NoError(t, err)
	require.Equal(t, float64(1<<53), gotAny)
}

// What an any holds arrives as what the documents say.
func TestAnyArrives(t *testing.T) {
	at := time.Unix(1, 5).UTC()
	for _, c := range []struct{ in, cbor, json any }{
		{nil, nil, nil},
		{true, true, true},
		{5, uint64(5), 5.0},
		{int8(-5), int64(-5), -5.0},
		{uint64(math.MaxUint32), uint64(math.MaxUint32), float64(math.MaxUint32)},
		{1.5, 1.5, 1.5},
		{float32(0.1), float64(float32(0.1)), 0.1},
		{"text", "text", "text"},
		{[]byte{1}, []byte{1}, "AQ=="},
		{[]int{1}, []any{uint64(1)}, []any{1.0}},
		{[]any(nil), nil, nil},
		{map[string]int{"a": 1}, map[any]any{"a": uint64(1)}, map[string]any{"a": 1.0}},
		{map[int]string{1: "a"}, map[any]any{uint64(1): "a"}, map[string]any{"1": "a"}},
		{Plain{1, 2}, map[any]any{"N": uint64(1), "M": uint64(2)}, map[string]any{"N": 1.0, "M": 2.0}},
		{&Plain{1, 2}, map[any]any{"N": uint64(1), "M": uint64(2)}, map[string]any{"N": 1.0, "M": 2.0}},
		{at, at, "1970-01-01T00:00:01.000000005Z"},
		{time.Second, uint64(1e9), 1e9},
		{big.NewInt(-7), int64(-7), -7.0},
		{[2]byte{1, 2}, []byte{1, 2}, []any{1.0, 2.0}},
		{json.Number("1.50"), "1.50", 1.5},
		{Level(3), "L3", "L3"},
		{netip.MustParseAddr("1.2.3.4"), []byte{1, 2, 3, 4}, "1.2.3.4"},
	} {
		got, err := roundTrip(ipc.CBOR, c.in)
		require.NoError(t, err)
		require.Equal(t, c.cbor, got, "%T", c.in)
		got, err = roundTrip(ipc.JSON, c.in)
		require.NoError(t, err)
		require.Equal(t, c.json, got, "%T", c.in)
	}
}
