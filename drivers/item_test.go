package drivers_test

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

func TestItemsArriveAsTheyWere(t *testing.T) {
	var items []byte
	for n := range 40 {
		before := len(items)
		items = drivers.AppendItem(items, make([]byte, n))
		require.Equal(t, drivers.ItemSpan(n), len(items)-before)
		require.Zero(t, len(items)%8)
	}
	for n := range 40 {
		item, rest, err := drivers.NextItem(items)
		require.NoError(t, err)
		require.Len(t, item, n)
		require.Equal(t, n, cap(item), "an item does not reach into the next")
		items = rest
	}
	require.Empty(t, items)
}

func TestItemsCutShort(t *testing.T) {
	whole := drivers.AppendItem(nil, make([]byte, 13))
	for n := range whole {
		_, _, err := drivers.NextItem(whole[:n])
		require.ErrorIs(t, err, ipc.ErrProtocol, "%d bytes", n)
	}
	for _, size := range []uint64{14, 17, math.MaxInt64 - 7, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64 - 7, math.MaxUint64} {
		binary.LittleEndian.PutUint64(whole, size)
		_, _, err := drivers.NextItem(whole)
		if size <= 16 {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, ipc.ErrProtocol, "an item of %d bytes in 16", size)
	}
}

// FuzzItems takes any bytes apart. What comes out, put together again, is what went in, but
// for the padding.
func FuzzItems(f *testing.F) {
	f.Add(drivers.AppendItem(drivers.AppendItem(nil, []byte("first")), nil))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	f.Add(binary.LittleEndian.AppendUint64(nil, math.MaxUint64-6))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		rest := b
		for len(rest) > 0 {
			item, next, err := drivers.NextItem(rest)
			if err != nil {
				require.ErrorIs(t, err, ipc.ErrProtocol)
				return
			}
			require.Less(t, len(next), len(rest))
			again = drivers.AppendItem(again, item)
			rest = next
		}
		require.Len(t, again, len(b))
	})
}
