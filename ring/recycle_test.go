package ring

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is handed out is large enough, whatever was given back before.
func TestBufferSizes(t *testing.T) {
	for class := 16; class <= 18; class++ {
		for _, d := range []int{-spare, -margin - 1, -margin, -1, 0, 1, margin - 1, margin, margin + 1, spare - 1, spare, spare + 1} {
			for _, given := range []int{-spare, -margin - 1, -margin, -1, 0, 1, margin - 1, margin, margin + 1, spare} {
				Recycle(make([]byte, 0, 1<<class+given))
				n := 1<<class + d
				b := buffer(n)
				require.Empty(t, b)
				require.GreaterOrEqual(t, cap(b), n)
			}
		}
	}
	Recycle(nil)
	Recycle(make([]byte, 10))
	require.Zero(t, cap(buffer(0)))
}

// Memory whose front was cut off many times is used again.
func TestRecycledMemoryIsUsedAgain(t *testing.T) {
	if raceEnabled {
		t.Skip("a sync.Pool drops things at random")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which empties pools
	for _, n := range []int{minRecycled, minRecycled + 1, 100_000, 1 << 17, 1<<20 - 1, 1 << 20, 3 << 20} {
		b := buffer(n)[:n]
		b[n-1] = 1
		end := &b[:cap(b)][cap(b)-1]
		same := 0
		const rounds = spare / 34
		for range rounds {
			Recycle(b[34:]) // as who cuts a header off
			if b = buffer(n)[:n]; end == &b[:cap(b)][cap(b)-1] {
				same++
			} else {
				end = &b[:cap(b)][cap(b)-1]
			}
		}
		require.Greater(t, same, rounds*3/4, "%d bytes", n) // it may be on another processor
	}
}
