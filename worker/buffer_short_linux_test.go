package worker_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// A worker without descriptors, to map the memory that comes or to say what it has released, says
// so to each caller. Nothing else is harmed, nothing is held, and the same succeeds when there
// are some again.
func TestNoDescriptorsForBuffers(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		for free := range 8 {
			w := s.start(t)
			_, err := fileShort.Call(t.Context(), w, free)
			require.NoError(t, err)
			var arena *ipc.Arena
			failed := 0
			for range 10 { // each time with a region of its own
				arena = ipc.NewArena(ipc.ArenaOptions{})
				b := filledBuffer(t, arena, 5000, free)
				got, err := bufferEcho.Call(t.Context(), w, b)
				if err != nil {
					require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err), "%v", err)
					failed++
				} else {
					requireFilled(t, got, 5000, free)
					got.Release()
				}
				b.Release()
				eventually(t, "what was not taken is free", func() bool { return arena.Stats().Buffers == 0 })
				require.NoError(t, arena.Close())
				sum, err := add.Call(t.Context(), w, pair{1, 2})
				require.NoError(t, err)
				require.Equal(t, 3, sum)
			}
			require.True(t, !w.Capabilities().SharedMemory || free > 0 || failed > 0, "there were descriptors after all")
			_, err = fileShort.Call(t.Context(), w, -1)
			require.NoError(t, err)
			arena = newArena(t, ipc.ArenaOptions{})
			b := filledBuffer(t, arena, 5000, free)
			got, err := bufferEcho.Call(t.Context(), w, b)
			require.NoError(t, err)
			requireFilled(t, got, 5000, free)
			got.Release()
			b.Release()
			require.NoError(t, w.Close())
		}
	})
}

// A region that could not be mapped is passed again.
func TestRegionIsPassedAgain(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		arena := newArena(t, ipc.ArenaOptions{})
		b := filledBuffer(t, arena, 5000, 1)
		defer b.Release()
		_, err := fileShort.Call(t.Context(), w, 0)
		require.NoError(t, err)
		_, err = bufferEcho.Call(t.Context(), w, b)
		require.True(t, err == nil || ipc.CodeOf(err) == ipc.CodeResourceExhausted, "%v", err)
		_, err = fileShort.Call(t.Context(), w, -1)
		require.NoError(t, err)
		eventually(t, "the region is there", func() bool {
			got, err := bufferEcho.Call(t.Context(), w, b)
			if err != nil {
				require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err), "%v", err)
				return false
			}
			requireFilled(t, got, 5000, 1)
			got.Release()
			return true
		})
	})
}
