//go:build unix

package worker_test

import (
	"context"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// detached starts a worker and leaves it.
func detached(t *testing.T, opts ...worker.Option) socket.Ref {
	t.Helper()
	w, err := worker.Spawn(t.Context(), worker.Self("test"), socket.Driver{Detached: true}, opts...)
	require.NoError(t, err)
	ref, err := w.Channel().Detach()
	require.NoError(t, err)
	_, err = add.Call(t.Context(), w, pair{})
	require.ErrorIs(t, err, ipc.ErrDisconnected)
	require.NoError(t, w.Close())
	require.False(t, gone(ref.PID), "it lives on")
	t.Cleanup(func() { _ = syscall.Kill(ref.PID, syscall.SIGKILL) })
	return ref
}

func TestAttach(t *testing.T) {
	ref := detached(t, worker.WithCodec(ipc.JSON))
	for i := range 3 {
		var r recorder
		w, err := worker.Attach(t.Context(), ref, socket.Connect{}, r.option())
		require.NoError(t, err)
		require.Equal(t, ref.PID, w.PID())
		require.Equal(t, ipc.JSON, w.Codec())
		require.True(t, w.Capabilities().Detach)
		worker.Handle(w, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
		n, err := callback.Call(t.Context(), w, i)
		require.NoError(t, err)
		require.Equal(t, 2*i, n)
		if i < 2 {
			_, err := w.Channel().Detach()
			require.NoError(t, err)
			require.NoError(t, w.Close())
			require.False(t, gone(ref.PID))
			require.Equal(t, []worker.EventKind{worker.EventReady, worker.EventDisconnected}, r.kinds())
			continue
		}
		require.NoError(t, w.Close())
		eventually(t, "it has ended", func() bool { return gone(ref.PID) })
		require.Equal(t, []worker.EventKind{worker.EventReady, worker.EventExited}, r.kinds())
	}
	_, err := worker.Attach(t.Context(), ref, socket.Connect{})
	require.ErrorIs(t, err, socket.ErrStale)
}

func TestAttachOptions(t *testing.T) {
	ref := detached(t)
	for name, opt := range map[string]worker.Option{
		"WithRestart": worker.WithRestart(atOnce), "WithRetry": worker.WithRetry(2), "WithCodec": worker.WithCodec(ipc.JSON),
		"WithData": worker.WithData(1), "WithMaxMessage": worker.WithMaxMessage(4096), "WithWindow": worker.WithWindow(1 << 20), "WithHostTimeout": worker.WithHostTimeout(1),
		"WithOutput": worker.WithOutput(slog.Default()), "WithChecksum": worker.WithChecksum([32]byte{}), "WithMaxFiles": worker.WithMaxFiles(50),
	} {
		_, err := worker.Attach(t.Context(), ref, socket.Connect{}, opt)
		require.ErrorContains(t, err, name)
	}
	bad := ref
	bad.Codec = "morse"
	_, err := worker.Attach(t.Context(), bad, socket.Connect{})
	require.ErrorIs(t, err, socket.ErrBadRef)

	stop(t, ref.PID)
	_, err = worker.Attach(t.Context(), ref, socket.Connect{}, worker.WithStartTimeout(50*time.Millisecond))
	var limit *ipc.TimeoutError
	require.ErrorAs(t, err, &limit)
	require.NoError(t, syscall.Kill(ref.PID, syscall.SIGCONT))

	w, err := worker.Attach(t.Context(), ref, socket.Connect{}, worker.WithCallTimeout(20*time.Millisecond))
	require.NoError(t, err)
	_, err = block.Call(t.Context(), w, "x")
	require.ErrorAs(t, err, &limit)
	require.NoError(t, w.Close())
}

func TestAttachedWorkerDies(t *testing.T) {
	ref := detached(t)
	w, err := worker.Attach(t.Context(), ref, socket.Connect{}, worker.WithHeartbeat(10*time.Millisecond, silence))
	require.NoError(t, err)
	stop(t, ref.PID)
	_, err = add.Call(t.Context(), w, pair{})
	var exit *worker.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, ipc.ExitUnknown, exit.Code)
	require.ErrorAs(t, err, new(*ipc.TimeoutError))
	require.NoError(t, w.Close())
}

// Who does not end by itself is killed, and that is told.
func TestCloseOfStoppedAttachedWorker(t *testing.T) {
	t.Parallel()
	ref := detached(t)
	w, err := worker.Attach(t.Context(), ref, socket.Connect{}, worker.WithGrace(10*time.Millisecond))
	require.NoError(t, err)
	stop(t, ref.PID)
	require.ErrorAs(t, w.Close(), new(*worker.ExitError))
	eventually(t, "it has ended", func() bool { return gone(ref.PID) })
}
