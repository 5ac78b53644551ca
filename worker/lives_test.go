//go:build unix

package worker_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// atOnce restarts a worker without delay and bound.
var atOnce = worker.Restart{Delay: time.Millisecond, MaxDelay: time.Millisecond, MaxRestarts: -1}

// never restarts a worker while the test runs.
var never = worker.Restart{Delay: time.Hour, MaxDelay: time.Hour}

// recorder keeps events.
type recorder struct {
	mu   sync.Mutex
	list []worker.Event
}

func (r *recorder) option() worker.Option {
	return worker.WithEvents(func(e worker.Event) {
		r.mu.Lock()
		r.list = append(r.list, e)
		r.mu.Unlock()
	})
}

func (r *recorder) events() []worker.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// kinds are those of the events so far.
func (r *recorder) kinds() (kinds []worker.EventKind) {
	for _, e := range r.events() {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func (r *recorder) await(t *testing.T, kind worker.EventKind, attempt int) (found worker.Event) {
	t.Helper()
	eventually(t, kind.String(), func() bool {
		i := slices.IndexFunc(r.events(), func(e worker.Event) bool { return e.Kind == kind && e.Attempt == attempt })
		if i >= 0 {
			found = r.events()[i]
		}
		return i >= 0
	})
	return found
}

func TestRestart(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		w, err := s.spawn(ctx, worker.Self("test"), worker.WithRestart(atOnce), worker.WithData(map[string]int{"a": 1}))
		require.NoError(t, err)
		defer w.Close()
		cancel() // ends the start only
		worker.Handle(w, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
		for _, how := range []string{"exit", "exit well", "kill", "panic"} {
			before := w.PID()
			_, err := crash.Call(t.Context(), w, how)
			var exit *worker.ExitError
			require.ErrorAs(t, err, &exit, "what was sent is not sent again")
			require.Equal(t, before, exit.PID)
			require.NoError(t, exit.Cause)

			n, err := callback.Call(t.Context(), w, 4)
			require.NoError(t, err, "the next call meets the next process, which finds the host's handlers")
			require.Equal(t, 8, n)
			p, err := pid.Call(t.Context(), w, 0)
			require.NoError(t, err)
			require.Equal(t, w.PID(), p.PID)
			require.NotEqual(t, before, p.PID)
			require.Equal(t, 1, p.Data["a"])
			require.True(t, w.Active())
			require.True(t, gone(before))
		}
		require.NoError(t, w.Close())
		require.True(t, gone(w.PID()))
	})
}

func TestRetry(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		for _, test := range []struct {
			name   string
			method *ipc.Method[death, int]
			client worker.Option
			call   []ipc.CallOption
			times  int // to die
			runs   int
			ok     bool
		}{
			{"idempotent", dieSafe, worker.WithRetry(3), nil, 2, 3, true},
			{"too few attempts", dieSafe, worker.WithRetry(2), nil, 2, 2, false},
			{"not declared idempotent", die, worker.WithRetry(3), nil, 2, 1, false},
			{"forced", die, worker.WithRetryAll(3), nil, 2, 3, true},
			{"the call says once", dieSafe, worker.WithRetry(3), []ipc.CallOption{ipc.WithAttempts(1)}, 2, 1, false},
			{"the call says more", dieSafe, worker.WithRestart(atOnce), []ipc.CallOption{ipc.WithAttempts(3)}, 2, 3, true},
			{"restarts alone", dieSafe, worker.WithRestart(atOnce), nil, 1, 1, false},
			{"attempts alone", dieSafe, worker.WithGrace(time.Second), []ipc.CallOption{ipc.WithAttempts(3)}, 2, 1, false},
		} {
			t.Run(test.name, func(t *testing.T) {
				opts := []worker.Option{test.client}
				if test.name != "attempts alone" {
					opts = append(opts, worker.WithRestart(atOnce))
				}
				w := s.start(t, opts...)
				file := filepath.Join(t.TempDir(), "runs")
				n, err := test.method.Call(t.Context(), w, death{file, test.times}, test.call...)
				if test.ok {
					require.NoError(t, err)
					require.Equal(t, test.runs, n)
				} else {
					require.ErrorAs(t, err, new(*worker.ExitError))
				}
				b, err := os.ReadFile(file)
				require.NoError(t, err)
				require.Len(t, b, test.runs)
			})
		}
	})
}

// WithRetry alone restarts, too.
func TestRetryImpliesRestart(t *testing.T) {
	w, err := worker.Start(t.Context(), worker.Self("test"), worker.WithRetry(2))
	require.NoError(t, err)
	defer w.Close()
	n, err := dieSafe.Call(t.Context(), w, death{filepath.Join(t.TempDir(), "runs"), 1})
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

func TestRetryOutOfRange(t *testing.T) {
	require.Panics(t, func() { worker.WithRetry(0) })
	require.Panics(t, func() { worker.WithRetryAll(-1) })
}

// While the worker is down calls wait, and no longer than they may.
func TestCallsWhileDown(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		var r recorder
		w := s.start(t, worker.WithRestart(never), r.option())
		pending := make(chan error, 1)
		go func() {
			_, err := block.Call(context.Background(), w, "x")
			pending <- err
		}()
		eventually(t, "in the handler", func() bool { return count(t, w, "x.begin") == 1 })
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
		require.ErrorAs(t, <-pending, new(*worker.ExitError), "at once")
		e := r.await(t, worker.EventRestarting, 2)
		require.ErrorAs(t, e.Err, new(*worker.ExitError))
		require.Equal(t, w.PID(), e.PID, "there is no other")
		require.Positive(t, e.Delay)
		require.False(t, w.Active())

		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := add.Call(ctx, w, pair{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = add.Call(t.Context(), w, pair{}, ipc.WithTimeout(20*time.Millisecond))
		var limit *ipc.TimeoutError
		require.ErrorAs(t, err, &limit)
		require.Equal(t, 20*time.Millisecond, limit.After)
		require.ErrorAs(t, notify.Notify(t.Context(), w, "x", ipc.WithTimeout(20*time.Millisecond)), &limit)

		waiting := make(chan error)
		go func() {
			_, err := add.Call(context.Background(), w, pair{})
			waiting <- err
		}()
		require.ErrorAs(t, w.Close(), new(*worker.ExitError), "the last process did not end well")
		require.ErrorIs(t, <-waiting, ipc.ErrClosed)
		require.NotContains(t, r.kinds(), worker.EventDisconnected)
	})
}

// A notification that finds the worker down goes to the next one.
func TestNotifyWhileDown(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		var r recorder
		w := s.start(t, worker.WithRestart(worker.Restart{Delay: 50 * time.Millisecond}), r.option())
		_, err := crash.Call(t.Context(), w, "kill")
		require.Error(t, err)
		r.await(t, worker.EventExited, 1)
		require.NoError(t, notify.Notify(t.Context(), w, "seen"))
		eventually(t, "seen by the second process", func() bool { return count(t, w, "seen") == 1 })
	})
}

// The program vanishes after the first start.
func TestRestartIsGivenUp(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		var r recorder
		cmd := worker.Self("test")
		self, err := os.Readlink("/proc/self/exe")
		require.NoError(t, err)
		cmd.Path = filepath.Join(t.TempDir(), "program")
		require.NoError(t, os.Symlink(self, cmd.Path))
		w, err := s.spawn(t.Context(), cmd, worker.WithRestart(worker.Restart{Delay: 1, MaxRestarts: 3}), r.option())
		require.NoError(t, err)
		defer w.Close()
		require.NoError(t, os.Remove(cmd.Path))
		_, err = crash.Call(t.Context(), w, "exit")
		require.ErrorAs(t, err, new(*worker.ExitError))
		for range 3 {
			_, err = add.Call(t.Context(), w, pair{})
			require.ErrorIs(t, err, ipc.ErrPeerGone)
			require.ErrorIs(t, err, os.ErrNotExist)
			require.ErrorContains(t, err, "given up after 3 restarts within 1m0s")
		}
		r.await(t, worker.EventGaveUp, 4)
		var exit *worker.ExitError
		require.ErrorAs(t, w.Close(), &exit)
		require.Equal(t, 3, exit.Code)
		started, ready, exited, restarting, gaveUp := worker.EventStarted, worker.EventReady, worker.EventExited, worker.EventRestarting, worker.EventGaveUp
		require.Equal(t, []worker.EventKind{started, ready, exited, restarting, exited, restarting, exited, restarting, exited, gaveUp}, r.kinds())
		require.Zero(t, r.events()[4].PID, "there was no process")
		_, err = add.Call(t.Context(), w, pair{})
		require.ErrorIs(t, err, ipc.ErrClosed)
	})
}

// The second process never says hello, and the client is closed meanwhile, or the
// limit of the start runs out.
func TestRestartThatHangs(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		for _, limited := range []bool{false, true} {
			var r recorder
			cmd := worker.Self("once")
			cmd.Args = append(cmd.Args, filepath.Join(t.TempDir(), "started"))
			opts := []worker.Option{worker.WithRestart(atOnce), r.option()}
			if limited {
				opts = append(opts, worker.WithStartTimeout(15*time.Second))
			}
			w, err := s.spawn(t.Context(), cmd, opts...)
			require.NoError(t, err)
			_, err = crash.Call(t.Context(), w, "exit")
			require.Error(t, err)
			mute := r.await(t, worker.EventStarted, 2).PID
			if limited {
				e := r.await(t, worker.EventExited, 2)
				require.Equal(t, mute, e.PID)
				require.ErrorAs(t, e.Err, new(*ipc.TimeoutError))
				mute = r.await(t, worker.EventStarted, 3).PID
			}
			require.False(t, gone(mute))
			require.ErrorAs(t, w.Close(), new(*worker.ExitError))
			require.True(t, gone(mute))
			require.Equal(t, worker.EventExited, r.kinds()[len(r.kinds())-1], "all that happened was told before Close returned")
		}
	})
}

func TestEvents(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		var r recorder
		w := s.start(t, worker.WithRestart(atOnce), r.option())
		first := w.PID()
		_, err := crash.Call(t.Context(), w, "exit")
		require.Error(t, err)
		second := r.await(t, worker.EventReady, 2).PID
		require.NoError(t, w.Close())
		want := []worker.Event{
			{Kind: worker.EventStarted, PID: first, Attempt: 1},
			{Kind: worker.EventReady, PID: first, Attempt: 1},
			{Kind: worker.EventExited, PID: first, Attempt: 1},
			{Kind: worker.EventRestarting, PID: first, Attempt: 2},
			{Kind: worker.EventStarted, PID: second, Attempt: 2},
			{Kind: worker.EventReady, PID: second, Attempt: 2},
			{Kind: worker.EventExited, PID: second, Attempt: 2},
		}
		got := r.events()
		for i := range got {
			require.False(t, got[i].Time.IsZero())
			if i > 0 {
				require.False(t, got[i].Time.Before(got[i-1].Time))
			}
			switch got[i].Kind {
			case worker.EventExited:
				var exit *worker.ExitError
				require.ErrorAs(t, got[i].Err, &exit)
				require.Equal(t, got[i].PID, exit.PID)
			case worker.EventRestarting:
				require.Equal(t, got[i-1].Err, got[i].Err)
				require.Positive(t, got[i].Delay)
			}
		}
		for i := range got {
			got[i].Time, got[i].Err, got[i].Delay = time.Time{}, nil, 0
		}
		require.Equal(t, want, got)
	})
}

func TestEventsOfFailedStart(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		var r recorder
		_, err := s.spawn(t.Context(), worker.Self("exit"), r.option())
		require.Error(t, err)
		require.Equal(t, []worker.EventKind{worker.EventStarted, worker.EventExited}, r.kinds())
		require.Equal(t, err, r.events()[1].Err)
		require.Equal(t, r.events()[0].PID, r.events()[1].PID)
	})
}

func TestEventsOfReconnects(t *testing.T) {
	var r recorder
	w, err := worker.Start(t.Context(), worker.Self("test"), r.option())
	require.NoError(t, err)
	for n := range 300 {
		require.NoError(t, w.Channel().Disconnect())
		require.NoError(t, w.Channel().Reconnect(t.Context()))
		if n%50 == 0 { // only so many are kept for a receiver that is slow
			eventually(t, "all events have come", func() bool { return len(r.kinds()) == 4+2*n })
		}
	}
	_, err = add.Call(t.Context(), w, pair{})
	require.NoError(t, err)
	require.NoError(t, w.Close())
	want := []worker.EventKind{worker.EventStarted, worker.EventReady}
	for range 300 {
		want = append(want, worker.EventDisconnected, worker.EventReconnected)
	}
	require.Equal(t, append(want, worker.EventExited), r.kinds())
	require.ErrorIs(t, r.events()[2].Err, ipc.ErrDisconnected)
}

// A receiver that never returns, or closes the client, holds nothing up for ever.
func TestEventReceiverBlocks(t *testing.T) {
	release := make(chan struct{})
	leaves(t, func() error {
		w, err := worker.Start(t.Context(), worker.Self("test"), worker.WithGrace(20*time.Millisecond),
			worker.WithEvents(func(worker.Event) { <-release }))
		require.NoError(t, err)
		return w.Close()
	})
	close(release)

	closed := make(chan error)
	var self atomic.Pointer[worker.Client[*socket.Channel]]
	w, err := worker.Start(t.Context(), worker.Self("test"), worker.WithGrace(20*time.Millisecond),
		worker.WithEvents(func(e worker.Event) {
			if e.Kind == worker.EventExited {
				closed <- self.Load().Close()
			}
		}))
	require.NoError(t, err)
	self.Store(w)
	require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
	require.ErrorAs(t, <-closed, new(*worker.ExitError))
}

// A worker that hangs up and runs on is of no use any more: it is killed where it
// cannot be linked again, or is to be replaced.
func TestWorkerHangsUp(t *testing.T) {
	t.Parallel()
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for _, restarted := range []bool{false, true} {
			if restarted && s.name == "shm" {
				continue // as without a restart, and it takes seconds
			}
			t.Run(map[bool]string{false: "alone", true: "restarted"}[restarted], func(t *testing.T) {
				t.Parallel()
				var r recorder
				opts := []worker.Option{r.option(), worker.WithGrace(50 * time.Millisecond)}
				if restarted {
					opts = append(opts, worker.WithRestart(atOnce))
				}
				w, err := s.spawn(t.Context(), worker.Self("stubborn"), opts...)
				require.NoError(t, err)
				defer w.Close()
				before := w.PID()
				_, err = crash.Call(t.Context(), w, "hang up")
				require.ErrorIs(t, err, ipc.ErrPeerGone)
				if w.Capabilities().Reconnect && !restarted {
					require.ErrorContains(t, err, "runs")
					require.False(t, gone(before))
					require.ErrorIs(t, r.await(t, worker.EventDisconnected, 1).Err, ipc.ErrPeerGone)
					require.NoError(t, syscall.Kill(before, syscall.SIGKILL))
					return
				}
				var exit *worker.ExitError
				require.ErrorAs(t, err, &exit)
				require.Equal(t, syscall.SIGKILL, exit.Signal)
				require.ErrorIs(t, exit.Cause, ipc.ErrPeerGone)
				require.ErrorContains(t, err, "the host had to kill it")
				require.True(t, gone(before))
				_, err = add.Call(t.Context(), w, pair{})
				require.Equal(t, restarted, err == nil)
				if restarted {
					require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL)) // it would not end for less
				}
			})
		}
	})
}

// A worker that breaks the protocol is killed at once.
func TestWorkerBreaksTheProtocol(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		cmd := worker.Self("hostile")
		cmd.Args = append(cmd.Args, "forge")
		var r recorder
		w, err := s.spawn(t.Context(), cmd, worker.WithRestart(never), r.option())
		require.NoError(t, err)
		e := r.await(t, worker.EventRestarting, 2)
		require.ErrorIs(t, e.Err, ipc.ErrProtocol)
		require.ErrorAs(t, e.Err, new(*worker.ExitError))
		require.True(t, gone(w.PID()))
		require.ErrorIs(t, w.Close(), ipc.ErrProtocol)
	})
}

// Requests that come while the worker shuts down, as its system told it to, are
// for the next one.
func TestDrainingWorkerIsReplaced(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t, worker.WithRestart(atOnce))
		old := w.PID()
		pending := make(chan error)
		go func() {
			_, err := sleep.Call(context.Background(), w, 200*time.Millisecond)
			pending <- err
		}()
		eventually(t, "in the handler", func() bool { return count(t, w, "sleep.begin") == 1 })
		require.NoError(t, syscall.Kill(old, syscall.SIGTERM))
		for now := old; now == old; {
			p, err := pid.Call(t.Context(), w, 0)
			require.NoError(t, err)
			now = p.PID
		}
		require.NoError(t, <-pending)
	})
}

// Whatever is killed and when, no call of an idempotent method is lost.
func TestKilledAtRandom(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t, worker.WithRestart(atOnce), worker.WithRetry(100))
		var calls atomic.Int64
		var wg sync.WaitGroup
		done := make(chan struct{})
		for range 8 {
			wg.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					_, err := safePID.Call(context.Background(), w, 0)
					if !assert.NoError(t, err) {
						return
					}
					calls.Add(1)
				}
			})
		}
		for range 8 {
			before := calls.Load()
			more := rand.Int64N(200)
			eventually(t, "calls are made", func() bool { return calls.Load() > before+more || t.Failed() })
			_ = syscall.Kill(w.PID(), syscall.SIGKILL) // which may be dead already
		}
		close(done)
		wg.Wait()
		_ = w.Close() // the last one may have been killed
		require.True(t, gone(w.PID()))
	})
}

// Calls that were started are not sent again. The next ones meet the next process.
func TestStartedCallsAreNotRetried(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t, worker.WithRestart(atOnce), worker.WithRetryAll(3))
		before := w.PID()
		f, err := block.Go(t.Context(), w, "x")
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(before, syscall.SIGKILL))
		_, err = f.Wait(context.Background())
		var exit *worker.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, before, exit.PID)
		eventually(t, "another process", func() bool { return w.PID() != before })
		require.NoError(t, ipc.Batch(t.Context(), w, func(c ipc.Caller) error {
			f, err := add.Go(t.Context(), c, pair{1, 2})
			require.NoError(t, err)
			n, err := f.Wait(context.Background())
			require.Equal(t, 3, n)
			return err
		}))
	})
}
