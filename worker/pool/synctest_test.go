//go:build linux

package pool_test

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// A pool that is started, used and closed in a bubble of package synctest works, beside
// one that is not in it.
func TestBubble(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		outside, _ := d.start(t, 2)
		synctest.Test(t, func(t *testing.T) {
			p, pids := d.start(t, 3, pool.WithConcurrency(1), pool.WithMaxSize(5), pool.WithIdle(time.Minute),
				pool.WithRecycle(pool.Recycle{Calls: 20}), pool.WithWorkers(worker.WithHeartbeat(time.Millisecond, time.Minute),
					worker.WithEvents(func(worker.Event) {}), worker.WithRestart(worker.Restart{Delay: time.Millisecond})))
			worker.Handle(p, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
			var calls sync.WaitGroup
			for n := range 20 { // some wait in the queue
				calls.Go(func() {
					for range 10 {
						sum, err := add.Call(t.Context(), p, pair{n, 1})
						assert.NoError(t, err)
						assert.Equal(t, n+1, sum)
						twice, err := callback.Call(t.Context(), p, n)
						assert.NoError(t, err)
						assert.Equal(t, 2*n, twice)
					}
				})
			}
			calls.Wait()
			victim := pids()[0]
			_ = syscall.Kill(victim, syscall.SIGKILL) // it may have been recycled meanwhile
			for slices.Contains(pids(), victim) || len(pids()) < 3 {
				runtime.Gosched() // another one takes its place
			}
			require.NoError(t, p.Replace(t.Context(), worker.Self("test")))
			_, err := add.Call(t.Context(), p, pair{})
			require.NoError(t, err)
			_ = p.Close() // it may say how the killed one has ended

			_, _, err = d.open(t.Context(), 3, worker.Self("exit"))
			require.Error(t, err)
			time.Sleep(time.Hour) // the clock goes on
		})
		_, err := add.Call(t.Context(), outside, pair{})
		require.NoError(t, err)
		require.NoError(t, outside.Close())
	})
}
