//go:build unix

package pool_test

import (
	"context"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// Once a pool is closed, or has failed to start, no goroutine is left at all: what
// go.uber.org/goleak asks of a user's tests.
func TestNoGoroutineIsLeft(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		for name, use := range map[string]func(){
			"calls, a killed worker and other programs": func() {
				p, pids := d.start(t, 3, pool.WithMaxSize(4), pool.WithRecycle(pool.Recycle{Calls: 5}), pool.WithIdle(time.Millisecond),
					pool.WithWorkers(worker.WithRestart(worker.Restart{Delay: time.Millisecond}), worker.WithHeartbeat(time.Second, time.Minute)))
				for n := range 20 {
					_, err := add.Call(t.Context(), p, pair{n, 1})
					require.NoError(t, err)
				}
				_ = syscall.Kill(pids()[0], syscall.SIGKILL) // it may have been recycled meanwhile
				require.NoError(t, p.Replace(t.Context(), worker.Self("test")))
				_, err := add.Call(t.Context(), p, pair{1, 1})
				require.NoError(t, err)
				_ = p.Close() // it may say how the killed one has ended
			},
			"starts that fail": func() {
				for _, cmd := range []*exec.Cmd{exec.Command("/nowhere"), exec.Command("/bin/true"), worker.Self("exit")} {
					_, _, err := d.open(context.Background(), 3, cmd)
					require.Error(t, err)
				}
			},
			"starts that are cancelled": func() {
				for _, after := range []time.Duration{0, time.Millisecond, 30 * time.Millisecond} {
					ctx, cancel := context.WithTimeout(context.Background(), after)
					_, _, err := d.open(ctx, 3, worker.Self("mute"))
					cancel()
					require.Error(t, err)
				}
			},
		} {
			use()
			require.NoError(t, goleak.Find(), "after "+name)
		}
	})
}
