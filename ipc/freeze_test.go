package ipc_test

import (
	"bytes"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// A frozen copy that nobody releases is counted and told as the buffer itself would be, also when that has gone.
func TestForgottenFrozenBuffer(t *testing.T) {
	var log bytes.Buffer
	a := ipc.NewArena(ipc.ArenaOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer func() { require.NoError(t, a.Close()) }()
	func() {
		b, err := a.Alloc(t.Context(), 321)
		require.NoError(t, err)
		frozen, err := b.Freeze()
		require.NoError(t, err)
		b.Release()
		again, err := frozen.Freeze()
		require.NoError(t, err)
		released, err := frozen.Freeze()
		require.NoError(t, err)
		released.Release()
		runtime.KeepAlive(again)
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		return a.Stats().Forgotten == 2
	}, 30*time.Second, time.Millisecond)
	require.Equal(t, 2, strings.Count(log.String(), "a buffer was forgotten, and is released by the garbage collector\" bytes=321"), log.String())
}
