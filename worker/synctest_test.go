//go:build linux

package worker_test

import (
	"context"
	"io"
	"log/slog"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// inBubble returns a test that runs test in a bubble of package synctest. Outside of it
// are workers, too, which share nothing with those in it.
func inBubble(test func(t *testing.T, s spawner)) func(t *testing.T, s spawner) {
	return func(t *testing.T, s spawner) {
		outside := s.start(t)
		ended := make(chan struct{})
		var busy sync.WaitGroup
		busy.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-ended:
					return
				default:
				}
				w, err := s.spawn(context.Background(), worker.Self("test"))
				if assert.NoError(t, err) {
					assert.NoError(t, callAdd(w, n))
					assert.NoError(t, w.Close())
				}
				assert.NoError(t, callAdd(outside, n))
			}
		})
		t.Cleanup(func() {
			close(ended)
			busy.Wait()
		})
		synctest.Test(t, func(t *testing.T) { test(t, s) })
		require.NoError(t, callAdd(outside, 1))
	}
}

// A worker that is started, used and closed in a bubble works, though it is no part of it.
func TestBubble(t *testing.T) {
	eachDriver(t, inBubble(func(t *testing.T, s spawner) {
		began := time.Now()
		w, err := s.spawn(t.Context(), worker.Self("test"), worker.WithHeartbeat(time.Millisecond, time.Minute),
			worker.WithEvents(func(worker.Event) {}), worker.WithOutput(slog.Default()))
		require.NoError(t, err)
		next := make(chan int)
		worker.Handle(w, double, func(_ context.Context, n int) (int, error) {
			if n == 0 {
				return <-next, nil
			}
			return 2 * n, nil
		})
		for n := range 100 {
			require.NoError(t, callAdd(w, n))
		}
		six, err := callback.Call(t.Context(), w, 3)
		require.NoError(t, err)
		require.Equal(t, 6, six)

		// A handler of the host may wait for what a later call does.
		waiting, err := callback.Go(t.Context(), w, 0)
		require.NoError(t, err)
		sum, err := add.Call(t.Context(), w, pair{40, 2})
		require.NoError(t, err)
		next <- sum
		answer, err := waiting.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, 42, answer)

		// Calls can be given up, and Close waits for others.
		ctx, cancel := context.WithCancel(t.Context())
		blocked, err := block.Go(ctx, w, "x")
		require.NoError(t, err)
		cancel()
		_, err = blocked.Wait(context.Background())
		require.ErrorIs(t, err, context.Canceled)
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				_, err := sleep.Call(context.Background(), w, 30*time.Millisecond)
				assert.NoError(t, err)
			})
		}
		for count(t, w, "sleep.begin") < 3 {
			runtime.Gosched()
		}
		require.NoError(t, w.Close())
		calls.Wait()
		require.Equal(t, began, time.Now(), "time stands still while a worker lives")

		time.Sleep(time.Hour) // and then it is the bubble's again
	}))
}

// Whatever goes wrong comes to an end in a bubble, too.
func TestBubbleWithFailures(t *testing.T) {
	eachPlainDriver(t, inBubble(func(t *testing.T, s spawner) {
		for _, cmd := range []*exec.Cmd{exec.Command("/nowhere"), exec.Command("/bin/true"), worker.Self("exit")} {
			_, err := s.spawn(t.Context(), cmd)
			require.Error(t, err)
		}
		var timeout *ipc.TimeoutError
		_, err := s.spawn(t.Context(), worker.Self("mute"), worker.WithStartTimeout(50*time.Millisecond))
		require.ErrorAs(t, err, &timeout)

		w, err := s.spawn(t.Context(), worker.Self("test"), worker.WithRestart(worker.Restart{Delay: time.Millisecond}))
		require.NoError(t, err)
		var exit *worker.ExitError
		for _, how := range []string{"exit", "kill", "panic"} {
			_, err = crash.Call(t.Context(), w, how)
			require.ErrorAs(t, err, &exit)
			require.NoError(t, callAdd(w, 1), "it has been started again")
		}
		require.NoError(t, w.Close())

		w, err = s.spawn(t.Context(), worker.Self("stubborn"), worker.WithGrace(10*time.Millisecond))
		require.NoError(t, err)
		require.ErrorAs(t, w.Close(), &exit)
		require.Equal(t, syscall.SIGKILL, exit.Signal)

		w, err = s.spawn(t.Context(), worker.Self("test"), worker.WithHeartbeat(10*time.Millisecond, 50*time.Millisecond))
		require.NoError(t, err)
		_ = syscall.Kill(w.PID(), syscall.SIGSTOP)    // unless it has been killed already, see below
		for state(w.PID()) != "T" && !gone(w.PID()) { // on a busy machine it may seem to hang before
			runtime.Gosched() // time.Sleep would not return
		}
		_, err = sleep.Call(t.Context(), w, 0)
		require.ErrorAs(t, err, &timeout)
		require.ErrorAs(t, w.Close(), &exit)

		// Its children hold its stderr, which is copied.
		cmd := exec.Command("/bin/sh", "-c", `(trap '' TERM; exec sleep 20) & exec "$0"`, link(t, testProgram))
		cmd.Stderr = io.MultiWriter(io.Discard)
		w, err = s.spawn(t.Context(), cmd)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}))
}

// More links than have threads of their own sleep.
func TestBubbleWithManyWorkers(t *testing.T) {
	eachDriver(t, inBubble(func(t *testing.T, s spawner) {
		var all []client
		for range 20 {
			w, err := s.spawn(t.Context(), worker.Self("test"))
			require.NoError(t, err)
			all = append(all, w)
		}
		for n, w := range all {
			require.NoError(t, callAdd(w, n))
		}
		for _, w := range all {
			require.NoError(t, w.Close())
		}
	}))
}

func TestBubbleWithReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, d := range []socket.Driver{
			{}, {Detached: true}, {Path: t.TempDir() + "/s"},
		} {
			w, err := worker.Spawn(t.Context(), worker.Self("test"), d, worker.WithResume(1<<20))
			require.NoError(t, err)
			for n := range 3 {
				require.NoError(t, w.Channel().Disconnect())
				require.NoError(t, w.Channel().Reconnect(t.Context()))
				require.NoError(t, callAdd(w, n))
			}
			require.NoError(t, w.Close())
		}
		// A connection that is cut comes back by itself, after a pause.
		var states connStates
		w := startResume(t, socket.Driver{Connect: socket.Connect{Auto: true, OnState: states.add}}, worker.WithResume(1<<20))
		for range 3 {
			_, err := cut.Call(t.Context(), w, 0)
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		require.Contains(t, states.kinds(), socket.Reconnecting)
	})
}
