//go:build unix

package pool_test

import (
	"context"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// stableAdd may be called more than once.
var stableAdd = ipc.NewMethod[pair, int]("test.add", ipc.WithIdempotent())

// testPool is what the tests need of a Pool of any driver.
type testPool interface {
	ipc.Caller
	worker.Registrar
	For(key string) ipc.Caller
	Stats() pool.Stats
	Replace(ctx context.Context, cmd *exec.Cmd) error
	Close() error
}

type pooler struct {
	name string
	open func(ctx context.Context, size int, cmd *exec.Cmd, opts ...pool.Option) (testPool, func() []int, error)
}

func poolerFor[C drivers.Channel](name string, d drivers.Driver[C]) pooler {
	return pooler{name, func(ctx context.Context, size int, cmd *exec.Cmd, opts ...pool.Option) (testPool, func() []int, error) {
		p, err := pool.New(ctx, size, cmd, d, opts...)
		if err != nil {
			return nil, nil, err
		}
		return p, func() (pids []int) {
			for _, w := range p.Clients() {
				pids = append(pids, w.PID())
			}
			return pids
		}, nil
	}}
}

// eachPool runs a test with every driver, and shows that it leaves nothing.
func eachPool(t *testing.T, test func(t *testing.T, p pooler)) {
	for _, p := range []pooler{poolerFor("shm", shm.Driver{}), poolerFor("socket", socket.Driver{})} {
		t.Run(p.name, func(t *testing.T) {
			before := drivertest.NewBaseline()
			test(t, p)
			if !t.Failed() {
				require.Empty(t, before.Leaks())
			}
		})
	}
}

func (p pooler) start(t testing.TB, size int, opts ...pool.Option) (testPool, func() []int) {
	t.Helper()
	pool, pids, err := p.open(context.Background(), size, worker.Self("test"), opts...)
	require.NoError(t, err)
	return pool, pids
}

// begin makes a call in a goroutine.
func begin(t testing.TB, call func() error) chan error {
	result := make(chan error, 1)
	go func() { result <- call() }()
	return result
}

func TestPool(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		p, pids := d.start(t, 3, pool.WithConcurrency(1), pool.WithWorkers(worker.WithData(map[string]int{"answer": 42})))
		worker.Handle(p, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
		require.Len(t, pids(), 3)
		var blocked []chan error
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 2 {
			blocked = append(blocked, begin(t, func() error {
				_, err := block.Call(ctx, p, "x")
				return err
			}))
			eventually(t, "it runs", func() bool { return p.Stats().Running == i+1 })
		}
		for range 10 {
			who, err := pid.Call(t.Context(), p, 0)
			require.NoError(t, err)
			require.Equal(t, pids()[2], who.PID, "calls go to the one that is free")
			require.Equal(t, 42, who.Data["answer"])
			n, err := callback.Call(t.Context(), p, 21)
			require.NoError(t, err)
			require.Equal(t, 42, n, "workers call handlers of the pool")
		}
		cancel()
		for _, b := range blocked {
			require.Equal(t, context.Canceled, <-b)
		}
		_, err := fail.Call(t.Context(), p, "code")
		require.Equal(t, ipc.CodeNotFound, ipc.CodeOf(err))
		st := p.Stats()
		require.EqualValues(t, 23, st.Calls)
		require.EqualValues(t, 3, st.Failed)
		require.Equal(t, st.Run.Count, int64(st.Calls))
		require.Positive(t, st.Run.P50)
		require.Less(t, st.Wait.Max, time.Microsecond, "nobody waited")
		require.Equal(t, 3, st.Size)
		require.Positive(t, st.Utilisation())
		require.LessOrEqual(t, st.Utilisation(), 1.0)

		all := pids()
		require.NoError(t, p.Close())
		require.NoError(t, p.Close(), "again")
		for _, pid := range all {
			require.True(t, gone(pid))
		}
		_, err = add.Call(t.Context(), p, pair{})
		require.ErrorIs(t, err, ipc.ErrClosed)
		require.ErrorIs(t, p.Replace(t.Context(), worker.Self("test")), ipc.ErrClosed)
		require.Zero(t, p.Stats().Size)
	})
}

func TestPoolQueue(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		p, _ := d.start(t, 1, pool.WithConcurrency(1), pool.WithQueue(2))
		defer p.Close()
		ctx, cancel := context.WithCancel(t.Context())
		running := begin(t, func() error { _, err := block.Call(ctx, p, "x"); return err })
		eventually(t, "it runs", func() bool { return p.Stats().Running == 1 })

		first := begin(t, func() error { _, err := add.Call(t.Context(), p, pair{1, 2}); return err })
		eventually(t, "it waits", func() bool { return p.Stats().Queued == 1 })
		ctx2, cancel2 := context.WithCancel(t.Context())
		second := begin(t, func() error { _, err := add.Call(ctx2, p, pair{1, 2}); return err })
		eventually(t, "it waits", func() bool { return p.Stats().Queued == 2 })

		_, err := add.Call(t.Context(), p, pair{})
		var e *ipc.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, ipc.CodeResourceExhausted, e.Code)
		require.False(t, e.Remote())

		cancel2()
		require.Equal(t, context.Canceled, <-second, "a call leaves the queue with its context")
		_, err = add.Call(t.Context(), p, pair{}, ipc.WithTimeout(20*time.Millisecond))
		var over *ipc.TimeoutError
		require.ErrorAs(t, err, &over, "or with its limit")
		require.Equal(t, 20*time.Millisecond, over.After)

		limited := begin(t, func() error {
			_, err := block.Call(t.Context(), p, "y", ipc.WithTimeout(3*time.Second))
			return err
		})
		eventually(t, "it waits", func() bool { return p.Stats().Queued == 2 })
		cancel()
		require.Equal(t, context.Canceled, <-running)
		require.NoError(t, <-first)
		require.ErrorAs(t, <-limited, &over, "what is left of the limit goes for the call")
		require.Equal(t, 3*time.Second, over.After)
		st := p.Stats()
		require.EqualValues(t, 1, st.Rejected)
		require.EqualValues(t, 2, st.Abandoned)
		require.Positive(t, st.Wait.Max)
	})
}

// What may not be made again fails when its worker ends, and no other call does.
func TestPoolMemberDies(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		var mu sync.Mutex
		kinds := make(map[worker.EventKind]int)
		p, pids := d.start(t, 2, pool.WithConcurrency(1), pool.WithWorkers(worker.WithRestart(worker.Restart{Delay: time.Millisecond})), pool.WithWorkers(worker.WithEvents(func(e worker.Event) {
			mu.Lock()
			defer mu.Unlock()
			kinds[e.Kind]++
		})))
		dead := pids()[0]
		failed := begin(t, func() error { _, err := block.Call(t.Context(), p, "x"); return err })
		eventually(t, "it runs", func() bool { return p.Stats().Running == 1 })
		require.NoError(t, syscall.Kill(dead, syscall.SIGKILL))
		var exit *worker.ExitError
		require.ErrorAs(t, <-failed, &exit)
		require.Equal(t, dead, exit.PID)
		sum, err := add.Call(t.Context(), p, pair{1, 2})
		require.NoError(t, err, "the other one goes on")
		require.Equal(t, 3, sum)
		eventually(t, "it was started again", func() bool { return p.Stats().Restarts == 1 && p.Stats().Size == 2 })
		require.NotContains(t, pids(), dead)
		require.NoError(t, p.Close(), "who died and was replaced is no fault")
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, map[worker.EventKind]int{worker.EventStarted: 3, worker.EventReady: 3, worker.EventExited: 3, worker.EventRestarting: 1}, kinds)
	})
}

// All members end at once; calls wait for the next ones.
func TestPoolAllDie(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		p, pids := d.start(t, 2, pool.WithWorkers(worker.WithRestart(worker.Restart{Delay: time.Second})))
		for _, pid := range pids() {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
		eventually(t, "all are gone", func() bool { return p.Stats().Size == 0 })
		for range 10 {
			_, err := add.Call(t.Context(), p, pair{})
			require.NoError(t, err)
		}
		require.NoError(t, p.Close())
	})
}

// A stopped member holds up only its own calls, and the heartbeat ends it.
func TestPoolStoppedMember(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		p, pids := d.start(t, 2, pool.WithConcurrency(1), pool.WithWorkers(worker.WithGrace(100*time.Millisecond)))
		stopped := pids()[0]
		stop(t, stopped)
		_, err := add.Call(t.Context(), p, pair{}, ipc.WithTimeout(30*time.Millisecond))
		require.ErrorAs(t, err, new(*ipc.TimeoutError))
		for range 20 {
			_, err := add.Call(t.Context(), p, pair{})
			require.NoError(t, err, "it is idle, and yet calls go to the other")
		}
		who, err := pid.Call(t.Context(), p, 0)
		require.NoError(t, err)
		require.NotEqual(t, stopped, who.PID)
		var exit *worker.ExitError
		require.ErrorAs(t, p.Close(), &exit)
		require.Equal(t, syscall.SIGKILL, exit.Signal)
		require.True(t, gone(stopped))
	})
	eachPool(t, func(t *testing.T, d pooler) {
		p, pids := d.start(t, 1, pool.WithWorkers(worker.WithRetry(100)), pool.WithWorkers(worker.WithHeartbeat(10*time.Millisecond, 3*time.Second)))
		stopped := pids()[0]
		stop(t, stopped)
		_, err := stableAdd.Call(t.Context(), p, pair{})
		require.NoError(t, err, "made again on the next one")
		require.NotContains(t, pids(), stopped)
		require.NoError(t, p.Close())
	})
}

func TestPoolKeys(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		p, pids := d.start(t, 3)
		defer p.Close()
		where := func(key string) int {
			who, err := pid.Call(t.Context(), p.For(key), 0)
			require.NoError(t, err)
			return who.PID
		}
		homes, met := make(map[string]int), make(map[int]bool)
		for _, key := range []string{"", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"} {
			homes[key] = where(key)
			met[homes[key]] = true
		}
		require.Greater(t, len(met), 1)
		for key, home := range homes {
			require.Equal(t, home, where(key))
		}
		// They move only with their worker, to its successor.
		dead := homes["a"]
		require.NoError(t, syscall.Kill(dead, syscall.SIGKILL))
		eventually(t, "it was replaced", func() bool { return p.Stats().Restarts == 1 && len(pids()) == 3 })
		successor := where("a")
		for key, home := range homes {
			if home == dead {
				home = successor
			}
			require.Equal(t, home, where(key))
		}
	})
}

// load makes calls until the test ends it, and fails it if one of them fails.
func load(t *testing.T, p ipc.Caller, callers int) (end func()) {
	var wg sync.WaitGroup
	var calls atomic.Int64
	stop := make(chan struct{})
	for i := range callers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				sum, err := add.Call(context.Background(), p, pair{i, n})
				if !assert.NoError(t, err) || !assert.Equal(t, i+n, sum) {
					return
				}
				calls.Add(1)
			}
		})
	}
	eventually(t, "calls are made", func() bool { return t.Failed() || calls.Load() > 100 })
	return func() {
		close(stop)
		wg.Wait()
	}
}

func TestPoolReplace(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		p, pids := d.start(t, 2)
		end := load(t, p, 4)
		old := pids()
		for range 2 {
			before := pids()
			require.NoError(t, p.Replace(t.Context(), worker.Self("test")))
			require.Len(t, pids(), 2)
			for _, pid := range pids() {
				require.NotContains(t, before, pid)
			}
		}
		eventually(t, "the old ones end", func() bool { return gone(old[0]) && gone(old[1]) })

		before := pids()
		err := p.Replace(t.Context(), worker.Self("exit"))
		require.ErrorContains(t, err, "no configuration found")
		require.ErrorContains(t, err, "old program")
		require.ErrorAs(t, err, new(*worker.ExitError))
		require.Equal(t, before, pids(), "nothing has changed")

		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, p.Replace(ctx, worker.Self("mute")), context.DeadlineExceeded)
		require.Equal(t, before, pids())
		end()
		require.NoError(t, p.Close())
	})
}

// A long call finishes on the old program.
func TestPoolReplaceDrains(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		p, pids := d.start(t, 1)
		old := pids()[0]
		ctx, cancel := context.WithCancel(t.Context())
		running := begin(t, func() error { _, err := block.Call(ctx, p, "x"); return err })
		eventually(t, "it runs", func() bool { return p.Stats().Running == 1 })
		require.NoError(t, p.Replace(t.Context(), worker.Self("test")))
		_, err := add.Call(t.Context(), p, pair{})
		require.NoError(t, err)
		require.False(t, gone(old))
		cancel()
		require.Equal(t, context.Canceled, <-running)
		eventually(t, "the old one ends", func() bool { return gone(old) })
		require.NoError(t, p.Close())
	})
}

func TestPoolRecycles(t *testing.T) {
	for name, r := range map[string]pool.Recycle{
		"calls":  {Calls: 200},
		"memory": {Memory: 1, Interval: 10 * time.Millisecond}, // whatever they have is too much
	} {
		t.Run(name, func(t *testing.T) {
			if name == "memory" && runtime.GOOS != "linux" {
				_, err := pool.New(t.Context(), 1, worker.Self("test"), socket.Driver{}, pool.WithRecycle(r))
				require.ErrorIs(t, err, ipc.ErrUnsupported)
				return
			}
			eachPool(t, func(t *testing.T, d pooler) {
				p, pids := d.start(t, 2, pool.WithRecycle(r))
				old := pids()
				end := load(t, p, 4)
				eventually(t, "all were recycled", func() bool {
					now := pids()
					return p.Stats().Recycled >= 3 && !slices.Contains(now, old[0]) && !slices.Contains(now, old[1])
				})
				end()
				require.Zero(t, p.Stats().Restarts)
				require.Zero(t, p.Stats().Failed)
				require.NoError(t, p.Close())
				require.True(t, gone(old[0]))
			})
		})
	}
}

func TestPoolGrowsAndShrinks(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		p, pids := d.start(t, 1, pool.WithMaxSize(3), pool.WithIdle(50*time.Millisecond), pool.WithConcurrency(1))
		first := pids()[0]
		ctx, cancel := context.WithCancel(t.Context())
		var results []chan error
		for range 5 {
			results = append(results, begin(t, func() error { _, err := block.Call(ctx, p, "x"); return err }))
		}
		eventually(t, "it has grown", func() bool { s := p.Stats(); return s.Size == 3 && s.Running == 3 && s.Queued == 2 })
		cancel()
		for _, r := range results {
			require.Equal(t, context.Canceled, <-r)
		}
		eventually(t, "it has shrunk", func() bool { return p.Stats().Size == 1 })
		require.Equal(t, []int{first}, pids())
		_, err := add.Call(t.Context(), p, pair{})
		require.NoError(t, err)
		require.NoError(t, p.Close())
	})
}

func TestPoolClose(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		p, _ := d.start(t, 1, pool.WithConcurrency(1))
		var results []chan error
		for _, long := range []time.Duration{time.Second, 0, 0} {
			results = append(results, begin(t, func() error { _, err := sleep.Call(context.Background(), p, long); return err }))
			eventually(t, "it runs", func() bool { return p.Stats().Running == 1 })
		}
		eventually(t, "one runs and two wait", func() bool { s := p.Stats(); return s.Running == 1 && s.Queued == 2 })
		require.NoError(t, p.Close())
		for _, r := range results {
			require.NoError(t, <-r, "Close lets finish what was accepted")
		}

		p, _ = d.start(t, 1, pool.WithConcurrency(1), pool.WithWorkers(worker.WithGrace(30*time.Millisecond)))
		results = nil
		for range 3 {
			results = append(results, begin(t, func() error { _, err := block.Call(context.Background(), p, "x"); return err }))
		}
		eventually(t, "one runs and two wait", func() bool { s := p.Stats(); return s.Running == 1 && s.Queued == 2 })
		_ = p.Close()
		for _, r := range results {
			require.Error(t, <-r, "but for no longer than the grace")
		}
	})
}

// Close comes while members are started again, recycled, replaced and added.
func TestPoolCloseAmidChanges(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		for range 4 {
			p, pids := d.start(t, 2, pool.WithMaxSize(4), pool.WithIdle(10*time.Millisecond), pool.WithConcurrency(1), pool.WithWorkers(worker.WithGrace(200*time.Millisecond)),
				pool.WithWorkers(worker.WithRetry(100)), pool.WithWorkers(worker.WithRestart(worker.Restart{Delay: time.Millisecond})), pool.WithRecycle(pool.Recycle{Calls: 20}))
			var wg sync.WaitGroup
			for range 6 {
				wg.Go(func() {
					for {
						if _, err := stableAdd.Call(context.Background(), p, pair{}); err != nil {
							assert.ErrorIs(t, err, ipc.ErrClosed)
							return
						}
					}
				})
			}
			wg.Go(func() {
				for p.Replace(context.Background(), worker.Self("test")) == nil {
				}
			})
			wg.Go(func() {
				for range 3 {
					for _, pid := range pids() {
						_ = syscall.Kill(pid, syscall.SIGKILL)
						time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
					}
				}
			})
			time.Sleep(time.Duration(rand.IntN(80)) * time.Millisecond)
			_ = p.Close() // some were killed
			wg.Wait()
		}
	})
}

func TestNewPoolFails(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		_, _, err := d.open(t.Context(), 3, worker.Self("exit"))
		require.ErrorContains(t, err, "no configuration found")

		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, _, err = d.open(ctx, 3, worker.Self("mute"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	require.Panics(t, func() { _, _, _ = poolerFor("shm", shm.Driver{}).open(t.Context(), 0, worker.Self("test")) })
	require.Panics(t, func() {
		_, _, _ = poolerFor("shm", shm.Driver{}).open(t.Context(), 3, worker.Self("test"), pool.WithMaxSize(2))
	})
}
