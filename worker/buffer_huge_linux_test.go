package worker_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// hugeFree returns how many huge pages of the default size nobody has, and their size; 0 where there are none.
func hugeFree(t *testing.T) (pages, size int) {
	t.Helper()
	b, err := os.ReadFile("/proc/meminfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
		case f[0] == "HugePages_Free:":
			pages, err = strconv.Atoi(f[1])
			require.NoError(t, err)
		case f[0] == "HugePages_Rsvd:": // these are somebody's
			n, err := strconv.Atoi(f[1])
			require.NoError(t, err)
			pages -= n
		case f[0] == "Hugepagesize:":
			size, err = strconv.Atoi(f[1])
			require.NoError(t, err)
			size <<= 10
		}
	}
	return pages, size
}

// Buffers in huge pages go there and back like others, take such pages while they live, and give them back. Where there are too
// few left Alloc says so, and what there is stays good.
func TestBuffersInHugePages(t *testing.T) {
	free, size := hugeFree(t)
	if free < 8 || free*size > 1<<30 {
		t.Skipf("the administrator has set %d huge pages of %d bytes aside (vm.nr_hugepages), and 8 to 1 GiB are needed", free, size)
	}
	eachBufferDriver(t, func(t *testing.T, s spawner) {
		arena := ipc.NewArena(ipc.ArenaOptions{HugePages: true, Limit: 2 << 30})
		w := s.start(t)
		defer w.Close()
		for i, n := range []int{1, 4096, 100_000, size + 1, 2*size - 5} {
			b := filledBuffer(t, arena, n, i)
			now, _ := hugeFree(t)
			require.Less(t, now, free, "it is in other memory")
			for range 3 {
				got, err := bufferEcho.Call(t.Context(), w, b)
				require.NoError(t, err)
				requireFilled(t, got, n, i)
				got.Release()
			}
			b.Bytes()[n-1]++ // which the maker can
			half := b.Slice(n/2, n)
			p, err := pictureEcho.Call(t.Context(), w, picture{Pixels: b, Rows: []ipc.Buffer{half}})
			require.NoError(t, err)
			half.Release()
			require.Equal(t, b.Bytes(), p.Pixels.Bytes())
			require.Equal(t, b.Bytes()[n/2:], p.Rows[0].Bytes())
			p.Pixels.Release()
			p.Rows[0].Release()
			frozen, err := b.Freeze()
			require.NoError(t, err)
			require.Equal(t, b.Bytes(), frozen.Bytes())
			frozen.Release()
			b.Release()
		}
		var all []ipc.Buffer
		var err error
		for err == nil {
			var b ipc.Buffer
			if b, err = arena.Alloc(t.Context(), 2*size); err == nil {
				b.Bytes()[2*size-1] = byte(len(all))
				all = append(all, b)
			}
			require.Less(t, len(all), free, "more than there are")
		}
		require.ErrorIs(t, err, ipc.ErrExhausted)
		require.ErrorContains(t, err, "vm.nr_hugepages")
		for i, b := range all {
			got, err := bufferEcho.Call(t.Context(), w, b)
			require.NoError(t, err)
			require.Equal(t, byte(i), got.Bytes()[2*size-1])
			got.Release()
			b.Release()
		}
		require.NotEmpty(t, all)
		require.NoError(t, w.Close())
		eventually(t, "all buffers are free", func() bool { return arena.Stats().Buffers <= 0 })
		require.NoError(t, arena.Close())
		eventually(t, "all pages are given back", func() bool { now, _ := hugeFree(t); return now >= free })
	})
}
