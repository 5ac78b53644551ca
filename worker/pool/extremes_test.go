//go:build unix

package pool_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

const longest = time.Duration(math.MaxInt64)

// What a pool cannot mean panics where it is given.
func TestOptionsThatMeanNothing(t *testing.T) {
	for i, misuse := range []func(){
		func() { pool.WithIdle(0) }, func() { pool.WithIdle(-1) }, func() { pool.WithIdle(math.MinInt64) },
		func() { pool.WithConcurrency(0) }, func() { pool.WithConcurrency(-1) }, func() { pool.WithConcurrency(math.MinInt) },
		func() { pool.WithQueue(-1) }, func() { pool.WithQueue(math.MinInt) },
		func() { pool.WithWindow(0) }, func() { pool.WithWindow(-1) }, func() { pool.WithWindow(math.MinInt) },
		func() { pool.WithRecycle(pool.Recycle{Calls: -1}) }, func() { pool.WithRecycle(pool.Recycle{Calls: math.MinInt}) },
		func() { pool.WithRecycle(pool.Recycle{Memory: math.MinInt64}) }, func() { pool.WithRecycle(pool.Recycle{Interval: -1}) },
	} {
		require.Panics(t, misuse, "%d", i)
	}
	for _, size := range []int{0, -1, math.MinInt} {
		p := poolerFor("socket", socket.Driver{})
		require.Panics(t, func() { _, _, _ = p.open(t.Context(), size, worker.Self("test")) })
		require.Panics(t, func() { _, _, _ = p.open(t.Context(), 1, worker.Self("test"), pool.WithMaxSize(size)) })
	}
}

// Options at the end of their types do what they say, and nothing overflows: calls run, as many at a time
// as may, the statistics are right, Map yields all, and the pool grows no further than it needs.
func TestOptionsAtTheEndsOfTheirTypes(t *testing.T) {
	for _, c := range []struct {
		name  string
		opts  []pool.Option
		queue int // how many of 20 calls at a time the pool takes at least
	}{
		{"concurrency", []pool.Option{pool.WithConcurrency(math.MaxInt)}, 20},
		{"concurrency less one", []pool.Option{pool.WithConcurrency(math.MaxInt - 1), pool.WithMaxSize(3)}, 20},
		{"concurrency of one", []pool.Option{pool.WithConcurrency(1), pool.WithQueue(math.MaxInt)}, 20},
		{"queue", []pool.Option{pool.WithQueue(math.MaxInt), pool.WithConcurrency(2)}, 20},
		{"no queue", []pool.Option{pool.WithQueue(0), pool.WithConcurrency(2)}, 4},
		{"size", []pool.Option{pool.WithMaxSize(math.MaxInt), pool.WithConcurrency(8)}, 20},
		{"all", []pool.Option{pool.WithMaxSize(math.MaxInt), pool.WithConcurrency(math.MaxInt), pool.WithQueue(math.MaxInt), pool.WithIdle(longest)}, 20},
		{"long idle", []pool.Option{pool.WithIdle(longest - 1), pool.WithMaxSize(3)}, 20},
		{"short idle", []pool.Option{pool.WithIdle(1), pool.WithMaxSize(3), pool.WithConcurrency(math.MaxInt)}, 20},
		{"recycle", []pool.Option{pool.WithRecycle(pool.Recycle{Calls: math.MaxInt, Interval: longest})}, 20},
		{"recycle each call", []pool.Option{pool.WithRecycle(pool.Recycle{Calls: 1, Interval: 1}), pool.WithConcurrency(20)}, 20},
		{"attempts and timeouts", []pool.Option{pool.WithWorkers(worker.WithRetry(math.MaxInt), worker.WithCallTimeout(longest), worker.WithStartTimeout(longest),
			worker.WithHeartbeat(longest, longest), worker.WithRestart(worker.Restart{Interval: longest, MaxRestarts: math.MaxInt, MaxDelay: longest}))}, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachPool(t, func(t *testing.T, d pooler) {
				p, pids := d.start(t, 2, c.opts...)
				var calls []chan error
				for range 20 {
					calls = append(calls, begin(t, func() error {
						_, err := sleep.Call(t.Context(), p, 50*time.Millisecond)
						return err
					}))
				}
				taken := 0
				for _, call := range calls {
					switch err := <-call; {
					case err == nil:
						taken++
					default:
						require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err), "%v", err)
					}
				}
				require.GreaterOrEqual(t, taken, c.queue)
				sum := 0
				for n, err := range pool.Map(t.Context(), p, add, func(yield func(pair) bool) {
					for i := range 100 {
						if !yield(pair{i, 0}) {
							return
						}
					}
				}) {
					require.NoError(t, err)
					sum += n
				}
				require.Equal(t, 99*100/2, sum)
				st := p.Stats()
				require.GreaterOrEqual(t, st.Utilisation(), 0.0)
				require.LessOrEqual(t, st.Utilisation(), 1.0)
				require.Positive(t, st.Available, fmt.Sprintf("%+v", st))
				require.LessOrEqual(t, len(pids()), 20)
				require.NoError(t, p.Close())
			})
		})
	}
}

// A window of any size holds what there is.
func TestWindowAtTheEndsOfItsType(t *testing.T) {
	squares := inProcess(func(_ context.Context, n int) (int, error) { return n * n, nil })
	for _, window := range []int{1, math.MaxInt32, math.MaxInt - 1, math.MaxInt} {
		for _, opts := range [][]pool.MapOption{nil, {pool.WithUnordered()}, {pool.WithContinueOnError()}} {
			n := 0
			for _, err := range pool.Map(t.Context(), squares, square, upTo(50), append(opts, pool.WithWindow(window))...) {
				require.NoError(t, err)
				n++
			}
			require.Equal(t, 50, n)
		}
	}
}
