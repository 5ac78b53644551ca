//go:build unix

package worker_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// silence is the limit of heartbeats that are to find a stopped worker: a running one is not silent for so long, however busy the
// machine is.
const silence = 3 * time.Second

func TestHeartbeatFindsStoppedWorker(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		var r recorder
		w := s.start(t, worker.WithHeartbeat(20*time.Millisecond, silence), worker.WithRestart(atOnce), r.option())
		before := w.PID()
		sum, err := add.Call(t.Context(), w, pair{1, 2})
		require.NoError(t, err)
		require.Equal(t, 3, sum)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := block.Call(context.Background(), w, "x")
			var exit *worker.ExitError
			var limit *ipc.TimeoutError
			if assert.ErrorAs(t, err, &exit) && assert.ErrorAs(t, err, &limit) {
				assert.Equal(t, before, exit.PID)
				assert.Equal(t, syscall.SIGKILL, exit.Signal)
				assert.Contains(t, limit.What, "heartbeat")
				assert.Equal(t, silence, limit.After)
				assert.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
			}
		})
		eventually(t, "in the handler", func() bool { return count(t, w, "x.begin") == 1 })
		stop(t, before)
		wg.Go(func() {
			// It waits for space, so the worker has not got all of it.
			response, err := rawEcho.Call(context.Background(), w, make([]byte, 10<<20))
			assert.NoError(t, err, "the next process gets it")
			assert.Len(t, response, 10<<20)
		})
		wg.Wait()
		require.True(t, gone(before))
		_, err = add.Call(t.Context(), w, pair{})
		require.NoError(t, err)
		require.NotEqual(t, before, w.PID())
		require.ErrorAs(t, r.await(t, worker.EventExited, 1).Err, new(*ipc.TimeoutError))
	})
}

// Without a restart the client is of no use any more, and says why.
func TestHeartbeatWithoutRestart(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t, worker.WithHeartbeat(10*time.Millisecond, silence))
		stop(t, w.PID())
		eventually(t, "killed", func() bool { return gone(w.PID()) })
		_, err := add.Call(t.Context(), w, pair{})
		require.ErrorAs(t, err, new(*worker.ExitError))
		require.ErrorAs(t, w.Close(), new(*ipc.TimeoutError))
	})
}

// A worker that has one CPU, and uses it, is not dead.
func TestHeartbeatOfBusyWorker(t *testing.T) {
	t.Parallel()
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		cmd := worker.Self("test")
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
		w, err := s.spawn(t.Context(), cmd, worker.WithHeartbeat(20*time.Millisecond, 2*silence))
		require.NoError(t, err)
		defer w.Close()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := busy.Call(context.Background(), w, 3*silence)
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		require.NoError(t, w.Close())
	})
}

// A host that was stopped for longer than the limit does not take that for the
// silence of its worker.
func TestHeartbeatOfStoppedHost(t *testing.T) {
	t.Parallel()
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		host := exec.Command("/proc/self/exe")
		host.Env = append(os.Environ(), hostEnv+"="+s.name)
		in, err := host.StdinPipe()
		require.NoError(t, err)
		out, err := host.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, host.Start())
		lines := bufio.NewScanner(out)
		read := func() string {
			require.True(t, lines.Scan())
			return lines.Text()
		}
		pid := read()
		stop(t, host.Process.Pid)
		time.Sleep(hostHeartbeat + hostHeartbeat/2) // that it is long is the point
		require.NoError(t, host.Process.Signal(syscall.SIGCONT))
		_, err = io.WriteString(in, "\n")
		require.NoError(t, err)
		require.Equal(t, pid, read(), "the worker is the same, and answers")
		in.Close()
		_, _ = io.Copy(io.Discard, out)
		require.NoError(t, host.Wait())
	})
}

// A worker that pings and pings gets one pong at a time.
func TestFloodOfPings(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		before := runtime.NumGoroutine()
		cmd := worker.Self("hostile")
		cmd.Args = append(cmd.Args, "ping")
		var stderr lockedBuilder
		cmd.Stderr = &stderr
		w, err := s.spawn(t.Context(), cmd, worker.WithGrace(10*time.Millisecond), worker.WithHeartbeat(10*time.Millisecond, time.Minute))
		require.NoError(t, err)
		eventually(t, "all pings are sent", func() bool { return strings.Contains(stderr.String(), "pinged") })
		require.Less(t, runtime.NumGoroutine(), before+30)
		_, err = add.Call(t.Context(), w, pair{}, ipc.WithTimeout(20*time.Millisecond))
		require.ErrorAs(t, err, new(*ipc.TimeoutError))
		require.ErrorAs(t, w.Close(), new(*worker.ExitError))
	})
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestHeartbeatOutOfRange(t *testing.T) {
	require.Panics(t, func() { worker.WithHeartbeat(0, time.Second) })
	require.Panics(t, func() { worker.WithHeartbeat(time.Second, 0) })
}

// hostHeartbeat is the limit of the heartbeat of beHost.
const hostHeartbeat = silence

// beHost starts a worker, prints its pid, and again, after a call, for each line
// that it reads, or else waits to be killed.
func beHost(driver string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, s := range spawners {
		if s.name != driver {
			continue
		}
		w, err := s.spawn(context.Background(), worker.Self("test"), worker.WithHeartbeat(50*time.Millisecond, hostHeartbeat))
		if err != nil {
			fail(err)
		}
		fmt.Println(w.PID())
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			n, err := safePID.Call(context.Background(), w, 0)
			if err != nil {
				fail(err)
			}
			fmt.Println(n)
		}
		if err := w.Close(); err != nil {
			fail(err)
		}
		os.Exit(0)
	}
}
