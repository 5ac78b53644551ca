package ipc_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

type tick struct {
	Time  int64
	Price float64
	Size  uint32
	Flags [3]uint8
	_     uint8
	Deep  [2]struct{ A, B int16 }
}

func TestFixedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := tick{
			Time: rapid.Int64().Draw(t, "time"), Price: rapid.Float64().Draw(t, "price"), Size: rapid.Uint32().Draw(t, "size"),
			Flags: [3]uint8{rapid.Byte().Draw(t, "flag")}, Deep: [2]struct{ A, B int16 }{1: {A: rapid.Int16().Draw(t, "a")}},
		}
		b, err := ipc.Marshal(ipc.Fixed, []byte("before"), in)
		require.NoError(t, err)
		require.Len(t, b, len("before")+32)
		out, err := ipc.Unmarshal[tick](ipc.Fixed, b[len("before"):])
		require.NoError(t, err)
		require.Equal(t, in, out)

		// The same by the interface, with a value and with a pointer.
		for _, v := range []any{in, &in} {
			other, err := ipc.Fixed.Append([]byte("before"), v)
			require.NoError(t, err)
			require.Equal(t, b, other)
		}
		out = tick{}
		require.NoError(t, ipc.Fixed.Decode(b[len("before"):], &out))
		require.Equal(t, in, out)
	})
}

func TestFixedWrongSize(t *testing.T) {
	for _, n := range []int{0, 31, 33, 1 << 20} {
		_, err := ipc.Unmarshal[tick](ipc.Fixed, make([]byte, n))
		require.ErrorContains(t, err, "which has 32")
		require.ErrorContains(t, ipc.Fixed.Decode(make([]byte, n), new(tick)), "which has 32")
	}
	_, err := ipc.Unmarshal[struct{}](ipc.Fixed, nil)
	require.NoError(t, err)
}

func TestFixedRefusesTypes(t *testing.T) {
	fixed := ipc.WithCodec(ipc.Fixed)
	for _, c := range []struct {
		declare func()
		want    string
	}{
		{func() { ipc.NewMethod[string, int]("m", fixed) }, "string is a string"},
		{func() { ipc.NewMethod[int, []byte]("m", fixed) }, "[]uint8 is a slice"},
		{func() { ipc.NewMethod[int, *int]("m", fixed) }, "*int is a ptr"},
		{func() { ipc.NewMethod[int, uintptr]("m", fixed) }, "uintptr is a uintptr"},
		{func() { ipc.NewMethod[struct{ Deep [3]struct{ M map[int]int } }, int]("m", fixed) }, ".Deep[].M is a map"},
		{func() { ipc.NewMethod[struct{ On bool }, int]("m", fixed) }, ".On is a bool"},
		{func() {
			ipc.NewMethod[struct {
				A uint8
				B uint32
			}, int]("m", fixed)
		}, "3 bytes of padding before field B"},
		{func() {
			ipc.NewMethod[struct {
				A uint64
				B uint8
			}, int]("m", fixed)
		}, "7 bytes of padding at its end"},
	} {
		func() {
			defer func() {
				p, _ := recover().(string)
				require.Contains(t, p, c.want)
				require.Contains(t, p, `method "m"`)
			}()
			c.declare()
		}()
	}
	_, err := ipc.Fixed.Append(nil, "text")
	require.ErrorContains(t, err, "string is a string")
	require.ErrorContains(t, ipc.Fixed.Decode(nil, new(bool)), "bool")
	require.ErrorContains(t, ipc.Fixed.Decode(nil, tick{}), "pointer")
}

// The layout is part of the method's identity, the names are not.
func TestFixedIdentity(t *testing.T) {
	fixed := ipc.WithCodec(ipc.Fixed)
	base := ipc.NewMethod[struct{ A, B int32 }, int64]("m", fixed).Info().ID
	require.Equal(t, base, ipc.NewMethod[struct{ X, Y int32 }, int64]("m", fixed).Info().ID)
	seen := map[uint64]string{base: "base"}
	for name, id := range map[string]uint64{
		"unsigned":  ipc.NewMethod[struct{ A, B uint32 }, int64]("m", fixed).Info().ID,
		"one field": ipc.NewMethod[struct{ A int64 }, int64]("m", fixed).Info().ID,
		"array":     ipc.NewMethod[[2]int32, int64]("m", fixed).Info().ID,
		"nested":    ipc.NewMethod[struct{ A struct{ B, C int32 } }, int64]("m", fixed).Info().ID,
		"response":  ipc.NewMethod[struct{ A, B int32 }, uint64]("m", fixed).Info().ID,
		"swapped":   ipc.NewMethod[int64, struct{ A, B int32 }]("m", fixed).Info().ID,
		"cbor":      ipc.NewMethod[struct{ A, B int32 }, int64]("m").Info().ID,
	} {
		require.NotContains(t, seen, id, name)
		seen[id] = name
	}
}

// echoCaller answers with the request.
type echoCaller struct{}

func (echoCaller) Codec() ipc.Codec { return ipc.CBOR }
func (echoCaller) Invoke(_ context.Context, _ *ipc.Invocation, request, memory []byte) ([]byte, error) {
	return append(memory, request...), nil
}

func TestFixedCallDoesNotAllocate(t *testing.T) {
	m := ipc.NewMethod[tick, tick]("m", ipc.WithCodec(ipc.Fixed))
	var caller ipc.Caller = echoCaller{}
	in := tick{Time: 1, Price: 2}
	allocs := testing.AllocsPerRun(1000, func() {
		out, err := m.Call(context.Background(), caller, in)
		if err != nil || out != in {
			t.Error(out, err)
		}
	})
	if raceEnabled {
		t.Skip("pools are leaky under the race detector")
	}
	require.Zero(t, allocs)
}

func ExampleFixed() {
	type Tick struct {
		Time  int64
		Price float64
	}
	quote := ipc.NewMethod[Tick, Tick]("market.quote", ipc.WithCodec(ipc.Fixed))
	out, err := quote.Call(context.Background(), echoCaller{}, Tick{Time: 1, Price: 2.5})
	if err != nil {
		panic(err)
	}
	fmt.Println(out.Price)
	// Output: 2.5
}
