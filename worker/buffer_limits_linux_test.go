package worker_test

import (
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Buffers whose bytes travel, and are too large together for a message, are refused before memory is
// taken for a message of theirs. Where they do not travel there is no such limit.
func TestBuffersTooLargeTogether(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		arena := newArena(t, ipc.ArenaOptions{})
		b := filledBuffer(t, arena, 16<<20, 1)
		defer b.Release()
		p := picture{Rows: make([]ipc.Buffer, 40)}
		for i := range p.Rows {
			p.Rows[i] = b.Retain()
			defer p.Rows[i].Release()
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := pictureEcho.Call(t.Context(), w, p)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20))
		if s.name != "socket" {
			require.NoError(t, err)
			require.Len(t, got.Rows, len(p.Rows))
			for _, row := range got.Rows {
				require.Equal(t, 16<<20, row.Len())
				row.Release()
			}
			return
		}
		var tooLarge *ipc.SizeError
		require.ErrorAs(t, err, &tooLarge)
		require.Greater(t, tooLarge.Size, tooLarge.Limit)
		small := picture{Pixels: b.Slice(0, 10)}
		defer small.Pixels.Release()
		got, err = pictureEcho.Call(t.Context(), w, small)
		require.NoError(t, err)
		requireFilled(t, got.Pixels, 10, 1)
		got.Pixels.Release()
	})
}

// The logger of a client is told of what was forgotten of its arena.
func TestForgottenBufferIsLogged(t *testing.T) {
	var log syncBuffer
	w, err := worker.Start(t.Context(), worker.Self("test"), worker.WithStartTimeout(time.Minute), worker.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	require.NoError(t, err)
	defer w.Close()
	b, err := w.Alloc(t.Context(), 12345)
	require.NoError(t, err)
	b.Bytes()[0] = 1 // and that is all
	eventually(t, "it is told", func() bool {
		runtime.GC()
		return strings.Contains(log.String(), "bytes=12345")
	})
}
