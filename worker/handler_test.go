//go:build unix

package worker_test

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var (
	gated     = ipc.NewMethod[[]byte, []byte]("test.gated", ipc.WithCodec(ipc.Raw))      // the host's
	callGated = ipc.NewMethod[[]byte, []byte]("test.call_gated", ipc.WithCodec(ipc.Raw)) // calls it
)

func serveCallGated(s *worker.Server) {
	worker.Handle(s, callGated, func(ctx context.Context, b []byte) ([]byte, error) { return gated.Call(ctx, worker.Host(ctx), b) })
}

func TestConcurrentPanics(t *testing.T) {
	require.Panics(t, func() { worker.WithConcurrency(0) })
	require.Panics(t, func() { worker.WithConcurrency(-1) })
}

// gateOn adds gated to a host; its worker calls it. It tells what has entered, and
// lets one go for each token.
type gateOn struct {
	entered       chan byte
	release       chan struct{}
	running, most atomic.Int32
}

func (g *gateOn) add(w client, n int) {
	g.entered, g.release = make(chan byte, 1000), make(chan struct{}, 1000)
	worker.Handle(w, gated, func(ctx context.Context, b []byte) ([]byte, error) {
		if now := g.running.Add(1); now > g.most.Load() {
			g.most.Store(now)
		}
		defer g.running.Add(-1)
		g.entered <- b[0]
		select {
		case <-g.release:
			return b, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, worker.WithConcurrency(n))
}

func TestConcurrent(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		for _, n := range []int{1, 3} {
			w := s.start(t)
			var g gateOn
			g.add(w, n)
			const calls = 40
			all := make([]*ipc.Future[[]byte], calls)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for i := range all {
				f, err := callGated.Go(ctx, w, []byte{byte(i)})
				require.NoError(t, err)
				all[i] = f
				if i < n {
					require.EqualValues(t, i, <-g.entered)
				}
			}
			// One that waits is given up: it does not disturb the others.
			all[20].Abandon()
			for range calls {
				g.release <- struct{}{}
			}
			for i, f := range all {
				if i == 20 {
					continue
				}
				b, err := f.Wait(context.Background())
				require.NoError(t, err)
				require.Equal(t, []byte{byte(i)}, b)
			}
			require.EqualValues(t, n, g.most.Load())
			require.NoError(t, w.Close())
		}
	})
}

// The worker dies while its requests wait for their turn.
func TestWorkerDiesWhileRequestsWait(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		var g gateOn
		g.add(w, 1)
		for i := range 10 {
			f, err := callGated.Go(t.Context(), w, []byte{byte(i)})
			require.NoError(t, err)
			defer f.Abandon()
		}
		<-g.entered
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
		require.Error(t, w.Close())
		eventually(t, "all have gone", func() bool { return g.running.Load() == 0 })
		require.EqualValues(t, 1, g.most.Load())
	})
}

// A handler that is always run by the reader, though it is slow, stalls nobody.
func TestInlineThoughSlow(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		var entered atomic.Int32
		release := make(chan struct{})
		worker.Handle(w, gated, func(_ context.Context, b []byte) ([]byte, error) {
			entered.Add(1)
			<-release
			return b, nil
		}, worker.WithInline())
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				b, err := callGated.Call(context.Background(), w, []byte{byte(i)})
				assert.NoError(t, err)
				assert.Equal(t, []byte{byte(i)}, b)
			})
		}
		eventually(t, "all of them run", func() bool { return entered.Load() == 5 })
		for i := range 200 {
			sum, err := add.Call(t.Context(), w, pair{i, i})
			require.NoError(t, err)
			require.Equal(t, 2*i, sum)
		}
		close(release)
		wg.Wait()
	})
}
