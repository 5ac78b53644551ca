//go:build unix

package pool_test

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// The events of each worker come in the order of the diagram at worker.EventKind, however
// its end is found: by its process, or by a call.
func TestEventsAreInOrder(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		var mu sync.Mutex
		var all []worker.Event
		p, pids := d.start(t, 2, pool.WithWorkers(
			worker.WithRestart(worker.Restart{Delay: time.Millisecond, MaxDelay: time.Millisecond, MaxRestarts: -1}),
			worker.WithEvents(func(e worker.Event) {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, e)
			})))
		ctx, cancel := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for ctx.Err() == nil {
					_, _ = add.Call(ctx, p, pair{1, 2})
				}
			})
		}
		restarted := func() (n int) {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range all {
				if e.Kind == worker.EventRestarting {
					n++
				}
			}
			return n
		}
		for i := range 20 {
			eventually(t, "both serve", func() bool { return len(pids()) == 2 })
			_ = syscall.Kill(pids()[i%2], syscall.SIGKILL)
			eventually(t, "it is started again", func() bool { return restarted() == i+1 })
		}
		cancel()
		callers.Wait()
		_ = p.Close() // the one that was killed last may be the error
		// What may come before an event of the same process.
		before := map[worker.EventKind][]worker.EventKind{
			worker.EventStarted:      {0},
			worker.EventReady:        {worker.EventStarted},
			worker.EventDisconnected: {worker.EventReady, worker.EventReconnected},
			worker.EventReconnected:  {worker.EventDisconnected},
			worker.EventExited:       {worker.EventStarted, worker.EventReady, worker.EventDisconnected, worker.EventReconnected},
			worker.EventRestarting:   {worker.EventExited},
		}
		last := make(map[int]worker.EventKind)
		for _, e := range all {
			if e.PID == 0 { // Close came before there was a process
				require.Equal(t, worker.EventExited, e.Kind)
				continue
			}
			require.Contains(t, before[e.Kind], last[e.PID], "before %v of %d", e.Kind, e.PID)
			last[e.PID] = e.Kind
		}
	})
}
