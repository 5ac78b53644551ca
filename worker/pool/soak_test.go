//go:build unix

package pool_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

var soakKills = flag.Int("soak.kills", 40, "how many workers TestPoolSurvivesKills kills or stops, with each driver")

// Members are killed, or stopped for good, while calls run that may be made again.
// None fails, each gets its own answer, and the pool has counted all of them.
func TestPoolSurvivesKills(t *testing.T) {
	const size, callers = 3, 16
	eachPool(t, func(t *testing.T, d pooler) {
		var exited, begun atomic.Int64
		p, pids := d.start(t, size, pool.WithWorkers(worker.WithRetry(1000),
			worker.WithRestart(worker.Restart{Delay: time.Millisecond, MaxDelay: 5 * time.Millisecond, MaxRestarts: -1}),
			worker.WithHeartbeat(20*time.Millisecond, 2*time.Second),
			worker.WithEvents(func(e worker.Event) {
				switch e.Kind {
				case worker.EventReady:
					begun.Add(1)
				case worker.EventExited:
					exited.Add(1)
				}
			})))
		var calls atomic.Int64
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for i := range callers {
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					// No other call has this sum.
					sum, err := stableAdd.Call(context.Background(), p, pair{i << 24, n}, ipc.WithTimeout(time.Minute))
					if !assert.NoError(t, err) || !assert.Equal(t, i<<24+n, sum) {
						return
					}
					calls.Add(1)
				}
			})
		}
		struck := make(map[int]bool) // each process once
		for len(struck) < *soakKills && !t.Failed() {
			victims := pids()
			if len(victims) == 0 {
				time.Sleep(time.Millisecond)
				continue
			}
			pid := victims[rand.IntN(len(victims))]
			sig := syscall.SIGKILL
			if rand.IntN(8) == 0 {
				sig = syscall.SIGSTOP // only the heartbeat finds that out
			}
			if struck[pid] || syscall.Kill(pid, sig) != nil {
				time.Sleep(time.Millisecond)
				continue
			}
			struck[pid] = true
			more := calls.Load() + rand.Int64N(200)
			eventually(t, "calls go on", func() bool { return t.Failed() || calls.Load() > more })
		}
		close(stop)
		wg.Wait()
		eventually(t, "all are back", func() bool {
			st := p.Stats()
			return st.Size == size && st.Restarts >= uint64(len(struck)) && !slices.ContainsFunc(pids(), func(pid int) bool { return struck[pid] })
		})
		st := p.Stats()
		require.EqualValues(t, calls.Load()+int64(st.Retried), st.Calls)
		require.Zero(t, st.Failed)
		require.Zero(t, st.Rejected)
		require.Zero(t, st.Abandoned)
		require.Zero(t, st.Running)
		require.Zero(t, st.Queued)
		require.NoError(t, p.Close())
		require.Equal(t, begun.Load(), exited.Load(), "no process is left")
		t.Logf("%d processes struck, %d restarts, %d calls", len(struck), st.Restarts, calls.Load())
	})
}
