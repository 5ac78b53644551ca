//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// gone reports whether there is no process of this id.
func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// state returns the state of a process as ps shows it, such as T for stopped.
func state(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(b), ") ")
	s, _, _ := strings.Cut(after, " ")
	return s
}

// stop stops a process and waits until it has stopped.
func stop(t *testing.T, pid int) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	eventually(t, "stopped", func() bool { return state(pid) == "T" })
}

func TestWorkerDies(t *testing.T) {
	for _, how := range []struct {
		name   string
		code   int
		signal os.Signal
		words  string
	}{
		{"exit", 3, nil, "last words: exit"},
		{"kill", -1, syscall.SIGKILL, "last words: kill"},
		{"panic", 2, nil, "in a goroutine"},
	} {
		t.Run(how.name, func(t *testing.T) {
			eachDriver(t, func(t *testing.T, s spawner) {
				w := s.start(t)
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() {
						_, err := block.Call(context.Background(), w, "x")
						var exit *worker.ExitError
						if assert.ErrorAs(t, err, &exit) {
							assert.Equal(t, w.PID(), exit.PID)
						}
					})
				}
				eventually(t, "20 calls are pending", func() bool { return count(t, w, "x.begin") == 20 })
				_, err := crash.Call(t.Context(), w, how.name)
				wg.Wait()
				var exit *worker.ExitError
				require.ErrorAs(t, err, &exit)
				require.Equal(t, how.code, exit.Code)
				require.Equal(t, how.signal, exit.Signal)
				require.Contains(t, exit.Stderr, how.words)
				require.ErrorIs(t, err, ipc.ErrPeerGone)
				require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))

				_, err = add.Call(t.Context(), w, pair{})
				require.ErrorAs(t, err, &exit, "later calls fail alike")
				require.False(t, w.Active())
				require.False(t, w.Connected())
				require.True(t, gone(w.PID()))
				require.ErrorAs(t, w.Close(), &exit)
			})
		})
	}
}

func TestClose(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		pending := make(chan error)
		go func() {
			_, err := sleep.Call(context.Background(), w, 100*time.Millisecond)
			pending <- err
		}()
		eventually(t, "in the handler", func() bool { return count(t, w, "sleep.begin") == 1 })
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { assert.NoError(t, w.Close()) })
		}
		require.NoError(t, <-pending, "Close lets pending calls finish")
		wg.Wait()
		require.True(t, gone(w.PID()))
		require.False(t, w.Active())
		_, err := add.Call(t.Context(), w, pair{})
		require.ErrorIs(t, err, ipc.ErrClosed)
	})
}

func TestCloseWithoutGrace(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		leaves(t, func() error { // by itself, since its handler heeds its context
			w := s.start(t, worker.WithGrace(50*time.Millisecond))
			pending := make(chan error)
			go func() {
				_, err := block.Call(context.Background(), w, "x")
				pending <- err
			}()
			eventually(t, "in the handler", func() bool { return count(t, w, "x.begin") == 1 })
			err := w.Close()
			require.Error(t, <-pending)
			require.True(t, gone(w.PID()))
			return err
		})
	})
}

// A call that outlasts the grace fails because we closed, not because the worker died.
func TestCloseFailsWhatOutlastsTheGrace(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		leaves(t, func() error {
			w := s.start(t, worker.WithGrace(50*time.Millisecond))
			pending := make(chan error)
			go func() {
				_, err := sleep.Call(context.Background(), w, time.Minute, ipc.WithTimeout(0))
				pending <- err
			}()
			eventually(t, "in the handler", func() bool { return count(t, w, "sleep.begin") == 1 })
			err := w.Close()
			require.ErrorIs(t, <-pending, ipc.ErrClosed)
			return err
		})
	})
}

// A handler that has not ended by the end of the grace ends with its context then. The SIGTERM that
// comes if the process takes longer does not keep it from what it has to do at its end.
func TestCloseOutlastsTheGraceInOrder(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for _, entry := range []string{"test", "tidy"} {
			for range 5 {
				leaves(t, func() error {
					w, err := s.spawn(t.Context(), worker.Self(entry), worker.WithGrace(50*time.Millisecond))
					require.NoError(t, err)
					require.NoError(t, block.Notify(t.Context(), w, "x"))
					eventually(t, "in the handler", func() bool { return count(t, w, "x.begin") == 1 })
					return w.Close()
				})
			}
		}
	})
}

// Closing the channel under a client ends its calls.
func TestChannelClosedUnderClient(t *testing.T) {
	for range 5 {
		w, err := worker.Spawn(t.Context(), worker.Self("test"), shm.Driver{})
		require.NoError(t, err)
		failed := make(chan error)
		var calls atomic.Int32
		go func() {
			request := make([]byte, 250<<10)
			for {
				if _, err := rawEcho.Call(context.Background(), w, request); err != nil {
					failed <- err
					return
				}
				calls.Add(1)
			}
		}()
		eventually(t, "calls are under way", func() bool { return calls.Load() > 10 })
		require.NoError(t, w.Channel().Close())
		require.Error(t, <-failed)
		_ = w.Close()
		require.True(t, gone(w.PID()))
	}
}

func TestCloseKillsTheStubborn(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w, err := s.spawn(t.Context(), worker.Self("stubborn"), worker.WithGrace(50*time.Millisecond))
		require.NoError(t, err)
		var exit *worker.ExitError
		require.ErrorAs(t, w.Close(), &exit)
		require.Equal(t, syscall.SIGKILL, exit.Signal)
		require.Contains(t, exit.Stderr, "served <nil>", "it had been asked politely")
		require.True(t, gone(w.PID()))
	})
}

func TestCloseOfStoppedWorker(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t, worker.WithGrace(50*time.Millisecond))
		stop(t, w.PID())
		pending := make(chan error)
		go func() {
			_, err := add.Call(context.Background(), w, pair{})
			pending <- err
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := add.Call(ctx, w, pair{})
		require.ErrorIs(t, err, context.DeadlineExceeded, "a call to a stopped worker ends with its context")
		_, err = rawEcho.Call(t.Context(), w, make([]byte, 10<<20), ipc.WithTimeout(50*time.Millisecond))
		require.ErrorIs(t, err, context.DeadlineExceeded, "or its limit, also while it waits for space")
		var exit *worker.ExitError
		require.ErrorAs(t, w.Close(), &exit)
		require.Equal(t, syscall.SIGKILL, exit.Signal)
		require.Error(t, <-pending)
	})
}

func TestStoppedWorkerGoesOn(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		stop(t, w.PID())
		_, err := rawEcho.Call(t.Context(), w, make([]byte, 10<<20), ipc.WithTimeout(50*time.Millisecond))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		pending := make(chan error)
		go func() {
			sum, err := add.Call(context.Background(), w, pair{1, 2})
			assert.Equal(t, 3, sum)
			pending <- err
		}()
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGCONT))
		require.NoError(t, <-pending, "the message that was cut short has done no harm")
		response, err := rawEcho.Call(t.Context(), w, make([]byte, 3<<20))
		require.NoError(t, err)
		require.Len(t, response, 3<<20)
	})
}

// A worker that is told to end by its own system answers what it has taken on.
func TestWorkerGetsSIGTERM(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		pending := make(chan error)
		go func() {
			_, err := sleep.Call(context.Background(), w, 100*time.Millisecond)
			pending <- err
		}()
		eventually(t, "in the handler", func() bool { return count(t, w, "sleep.begin") == 1 })
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGTERM))
		require.NoError(t, <-pending)
		eventually(t, "the worker has ended", func() bool { return !w.Connected() })
		var exit *worker.ExitError
		_, err := add.Call(t.Context(), w, pair{})
		require.ErrorAs(t, err, &exit)
		require.Zero(t, exit.Code)
	})
}

func TestDisconnectAndReconnect(t *testing.T) {
	w, err := worker.Spawn(t.Context(), worker.Self("test"), socket.Driver{})
	require.NoError(t, err)
	defer w.Close()
	worker.Handle(w, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	for i := range 20 {
		pending := make(chan error)
		before := count(t, w, "x.begin")
		go func() {
			_, err := block.Call(context.Background(), w, "x")
			pending <- err
		}()
		eventually(t, "in the handler", func() bool { return count(t, w, "x.begin") == before+1 })
		require.NoError(t, w.Channel().Disconnect())
		require.ErrorIs(t, <-pending, ipc.ErrDisconnected)
		require.False(t, w.Connected())
		require.False(t, w.Channel().Connected())
		_, err := add.Call(t.Context(), w, pair{})
		require.ErrorIs(t, err, ipc.ErrDisconnected)
		require.False(t, gone(w.PID()))

		require.NoError(t, w.Channel().Reconnect(t.Context()))
		require.True(t, w.Connected())
		sum, err := add.Call(t.Context(), w, pair{i, 1})
		require.NoError(t, err)
		require.Equal(t, i+1, sum)
		n, err := callback.Call(t.Context(), w, i)
		require.NoError(t, err, "handlers of the host are back")
		require.Equal(t, 2*i, n)
	}
	require.NoError(t, w.Close())
}

func TestCloseWhileDisconnected(t *testing.T) {
	w, err := worker.Spawn(t.Context(), worker.Self("test"), socket.Driver{})
	require.NoError(t, err)
	require.NoError(t, w.Channel().Disconnect())
	_ = w.Close()
	require.True(t, gone(w.PID()))
}

// A worker whose host does not come back ends by itself.
func TestHostLimit(t *testing.T) {
	t.Parallel()
	const limit = 10 * time.Second // the start is a wait for the host, too
	w, err := worker.Spawn(t.Context(), worker.Self("test"), socket.Driver{}, worker.WithHostTimeout(limit))
	require.NoError(t, err)
	defer w.Close()
	require.NoError(t, w.Channel().Disconnect())
	<-w.Channel().Process().Done()
	require.Contains(t, w.Channel().Process().Stderr(), "waiting for the host took longer than 10s")
}

// The host is a process of its own here, and is killed.
func TestHostDies(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		host := exec.Command("/proc/self/exe")
		host.Env = append(os.Environ(), hostEnv+"="+s.name)
		in, err := host.StdinPipe() // at whose end it would close the worker
		require.NoError(t, err)
		defer in.Close()
		out, err := host.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, host.Start())
		defer func() {
			_ = host.Process.Kill()
			_ = host.Wait()
		}()
		var pid int
		_, err = fmt.Fscan(out, &pid)
		require.NoError(t, err)
		require.False(t, gone(pid))
		require.NoError(t, host.Process.Kill())
		_ = host.Wait()
		// It is not our child, so it may stay a zombie if nobody reaps orphans.
		eventually(t, "the worker has ended", func() bool { return gone(pid) || state(pid) == "Z" })
	})
}
