package arena

import (
	"math/bits"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Each size has the smallest class that it fits in, and wastes at most what the documentation
// says.
func TestClasses(t *testing.T) {
	require.Equal(t, maxSmall, classSize(numClasses-1))
	class := 0
	for n := range maxSmall + 1 {
		for n > classSize(class) {
			class++
		}
		if got := classOf(n); got != class {
			t.Fatalf("%d bytes have class %d of %d bytes, want class %d of %d", n, got, classSize(got), class, classSize(class))
		}
		if waste := classSize(class) - n; n > 0 && waste > 63 && waste*5 > classSize(class) {
			t.Fatalf("%d bytes take up %d", n, classSize(class))
		}
	}
	for i := range numClasses {
		size := classSize(i)
		require.Zero(t, size%line)
		units := slabUnits(size)
		require.LessOrEqual(t, units, unitsTried)
		blocks := units * unit / size
		require.Positive(t, blocks)
		require.LessOrEqual(t, units*unit-blocks*size, units*maxWaste, "blocks of %d bytes, slabs of %d units", size, units)
	}
}

// run finds the lowest run, as looking at one bit after the other does.
func TestRun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := rapid.Uint64().Draw(t, "set") | rapid.Uint64().Draw(t, "more")
		if rapid.Bool().Draw(t, "all") {
			set = firstBits(rapid.IntRange(1, 64).Draw(t, "bits"))
		}
		n := rapid.IntRange(1, 64).Draw(t, "n")
		got, first, ok := run(set, n)
		for at := 0; at+n <= 64; at++ {
			if want := firstBits(n) << at; set&want == want {
				require.True(t, ok)
				require.Equal(t, at, first)
				require.Equal(t, want, got)
				require.Equal(t, n, bits.OnesCount64(got))
				return
			}
		}
		require.False(t, ok)
	})
}
