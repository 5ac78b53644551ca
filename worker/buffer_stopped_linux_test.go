package worker_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// A worker that is stopped takes nothing from the control socket, and a sender waits there for
// room. Neither its arena nor Close wait for that, and in the end all is free.
func TestBuffersForStoppedWorker(t *testing.T) {
	w, err := worker.Spawn(t.Context(), worker.Self("test"), shm.Driver{}, worker.WithStartTimeout(time.Minute), worker.WithGrace(100*time.Millisecond))
	require.NoError(t, err)
	defer w.Close()
	arena := newArena(t, ipc.ArenaOptions{Limit: 8 << 20})
	b := filledBuffer(t, arena, 1000, 1)
	got, err := bufferEcho.Call(t.Context(), w, b)
	require.NoError(t, err)
	got.Release()
	require.NoError(t, syscall.Kill(w.PID(), syscall.SIGSTOP))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan struct{}, 2000)
	ended := make(chan error)
	own := b.Retain()
	go func() {
		defer own.Release()
		for {
			f, err := own.Freeze()
			if err != nil {
				ended <- err
				return
			}
			_, err = bufferEcho.Go(ctx, w, f)
			f.Release()
			if err != nil {
				ended <- err
				return
			}
			sent <- struct{}{}
		}
	}()
	// It is blocked when nothing was sent for a while.
	for blocked := false; !blocked; {
		select {
		case <-sent:
		case <-time.After(500 * time.Millisecond):
			blocked = true
		}
	}
	for range 100 { // others are not held up
		b, err := arena.Alloc(t.Context(), 2<<20)
		require.NoError(t, err)
		b.Release()
	}
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	_, err = bufferEcho.Call(short, w, b)
	stop()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	b.Release()
	_ = w.Close()
	require.Error(t, <-ended)
}
