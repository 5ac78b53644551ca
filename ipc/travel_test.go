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
	require.ErrorContains(t, err, "embeds two fields of the name N")
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
