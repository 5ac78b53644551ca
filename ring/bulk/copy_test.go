package bulk

import (
	"bytes"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// eachWay runs a test with REP MOVSB, where there is that, and without.
func eachWay(t *testing.T, test func(t *testing.T)) {
	t.Run("as it is", test)
	if fast {
		fast = false
		defer func() { fast = true }()
		t.Run("without REP MOVSB", test)
	}
}

// sizes are those around which anything changes.
var sizes = []int{0, 1, 7, minFast - 1, minFast, minFast + 1, 3 * minFast, 64<<10 + 5}

// Copy does what copy does, also where one slice begins inside of the other.
func TestCopy(t *testing.T) {
	eachWay(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			size := rapid.SampledFrom(sizes)
			n, m := size.Draw(t, "to"), size.Draw(t, "from")
			memory := rapid.SliceOfN(rapid.Byte(), 64, 64).Draw(t, "memory")
			memory = bytes.Repeat(memory, 4<<10)
			for i := range memory {
				memory[i] += byte(i >> 6) // no two blocks alike
			}
			to := rapid.IntRange(0, len(memory)-n).Draw(t, "to at")
			from := rapid.IntRange(0, len(memory)-m).Draw(t, "from at")
			if rapid.Bool().Draw(t, "near") {
				from = min(max(0, to+rapid.IntRange(-minFast-1, minFast+1).Draw(t, "by")), len(memory)-m)
			}
			want := slices.Clone(memory)
			wantN := copy(want[to:to+n], want[from:from+m])
			require.Equal(t, wantN, Copy(memory[to:to+n], memory[from:from+m]))
			require.True(t, bytes.Equal(want, memory))
		})
	})
}

// Append does what append does, and allocates once, if at all.
func TestAppend(t *testing.T) {
	eachWay(t, func(t *testing.T) {
		for _, have := range sizes {
			for _, more := range sizes {
				for _, room := range []int{0, 1, more, more + 1, more + minFast} {
					src := bytes.Repeat([]byte("abcdefg"), more/7+1)[:more]
					dst := bytes.Repeat([]byte("123"), have/3+1)[:have:have]
					dst = append(make([]byte, 0, have+room), dst...)
					want := append(slices.Clone(dst), src...)
					var got []byte
					allocs := testing.AllocsPerRun(1, func() { got = Append(dst, src) })
					require.True(t, bytes.Equal(want, got), "%d and %d", have, more)
					if more <= room {
						require.Zero(t, allocs)
						require.Equal(t, cap(dst), cap(got), "in the memory of dst")
					} else {
						require.LessOrEqual(t, allocs, 1.0)
					}
				}
			}
		}
	})
	require.Nil(t, Append(nil, nil))
}

func TestMake(t *testing.T) {
	for _, n := range sizes {
		b := Make(n)
		require.Empty(t, b)
		require.GreaterOrEqual(t, cap(b), n)
		for i := range b[:cap(b)] {
			b[:cap(b)][i] = byte(i) // it is ours to write
		}
	}
}

// What CPUID is read to say is what the kernel says.
func TestFast(t *testing.T) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip("no /proc/cpuinfo:", err)
	}
	if raceEnabled {
		require.False(t, fast, "the race detector sees what copy does, only")
		return
	}
	flags := strings.Fields(string(info))
	require.Equal(t, runtime.GOARCH == "amd64" && slices.Contains(flags, "erms") && slices.Contains(flags, "fsrm"), fast)
}
