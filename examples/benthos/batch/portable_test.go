package batch

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// What crosses arrives as Portable says, whatever CBOR makes of it on the way.
func TestPortableCrosses(t *testing.T) {
	now := time.Now().UTC().Round(0)
	for _, c := range []struct{ in, want any }{
		{nil, nil}, {true, true}, {"a", "a"}, {"\xff", "\xff"}, {[]byte{0}, []byte{0}}, {now, now}, {1.5, 1.5}, {float32(0.5), 0.5},
		{-1, int64(-1)}, {int8(-8), int64(-8)}, {int16(-9), int64(-9)}, {int32(-10), int64(-10)}, {int64(math.MinInt64), int64(math.MinInt64)},
		{uint(1), int64(1)}, {uint8(2), int64(2)}, {uint16(3), int64(3)}, {uint32(4), int64(4)}, {uint64(5), int64(5)}, {uint64(math.MaxUint64), uint64(math.MaxUint64)},
		{json.Number("12"), int64(12)}, {json.Number("1.5"), 1.5}, {json.Number("x"), "x"},
		{[]any{1, []any{uint8(2)}}, []any{int64(1), []any{int64(2)}}},
		{map[string]any{"a": map[any]any{1: int32(2)}}, map[string]any{"a": map[string]any{"1": int64(2)}}},
		{errors.New("e"), "e"}, {time.Second, "1s"},
	} {
		encoded, err := ipc.Marshal(ipc.CBOR, nil, []Item{{Meta: map[string]any{"k": Portable(c.in)}}})
		require.NoError(t, err)
		items, err := ipc.Unmarshal[[]Item](ipc.CBOR, encoded)
		require.NoError(t, err)
		got, ok := newMessage(0, &items[0]).MetaGet("k")
		require.True(t, ok)
		require.Equal(t, c.want, got)
	}
}
