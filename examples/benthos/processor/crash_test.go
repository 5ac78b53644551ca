//go:build unix

package processor_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker"
)

// kill -9 of workers in the middle of the stream loses nothing: each message comes out, handled.
func TestKilledWorkersLoseNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		const senders, batches, size = 4, 50, 10
		var mu sync.Mutex
		times := make(map[string]int) // each message came out
		killed := make(map[int]bool)
		count := 0
		s := startWith(t, &stream{taken: func(got service.MessageBatch) error {
			mu.Lock()
			defer mu.Unlock()
			for _, m := range got {
				if m.GetError() != nil {
					return m.GetError() // and the sender sees it
				}
				id, _ := m.MetaGet("id")
				times[id]++
			}
			if count++; count%20 == 0 {
				v, _ := got[0].MetaGetMut("pid")
				if pid := int(v.(int64)); !killed[pid] {
					killed[pid] = true
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			return nil
		}}, "", senders, tandem(driver, "workers: 3, attempts: 50"))
		var all sync.WaitGroup
		errs := make([]error, senders)
		for i := range senders {
			all.Go(func() {
				for b := range batches {
					batch := make(service.MessageBatch, size)
					for j := range batch {
						batch[j] = message("x", "id", fmt.Sprint(i, b, j))
					}
					if errs[i] = s.send(t.Context(), batch); errs[i] != nil {
						return
					}
				}
			})
		}
		all.Wait()
		require.NoError(t, errors.Join(errs...))
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, times, senders*batches*size)
		require.GreaterOrEqual(t, len(killed), 3)
		t.Logf("%d workers were killed", len(killed))
	})
}

// A message that ends its worker is marked when the attempts are used up, and the workers go on.
func TestDeadWorker(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		for _, how := range []struct {
			conf    string
			retries bool
		}{{"idempotent: false", false}, {"attempts: 1", false}, {"attempts: 2", true}} {
			t.Run(how.conf, func(t *testing.T) {
				s := start(t, 1, tandem(driver, "workers: 2, heartbeat: 0s, "+how.conf))
				got := s.through(message("a"), message("b", "do", "kill"))
				require.Len(t, got, 2)
				for i, m := range got {
					require.Equal(t, []string{"a", "b"}[i], content(t, m))
					var exit *worker.ExitError
					require.ErrorAs(t, m.GetError(), &exit)
					require.Equal(t, syscall.SIGKILL, exit.Signal)
				}
				for range 10 {
					got = s.through(message("c"))
					require.NoError(t, got[0].GetError())
					require.Equal(t, "C", content(t, got[0]))
				}
				if how.retries {
					require.Contains(t, s.log.String(), "sent again (2 of 2 attempts)")
				} else {
					require.NotContains(t, s.log.String(), "sent again")
				}
			})
		}
	})
}

// What the documentation of the processor shows: one by one after a crash.
func TestOneByOneAfterCrash(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		s := startWith(t, &stream{}, `
processor_resources:
  - label: workers
    `+tandem(driver, "workers: 2, attempts: 1, heartbeat: 0s"), 1, "resource: workers", `
catch:
  - catch: []
  - resource: workers
  - catch:
      - mapping: 'meta to_blame = error()'`)
		got := s.through(message("a"), message("b", "do", "kill"), message("c"))
		require.Len(t, got, 3)
		for i, want := range []string{"A", "b", "C"} {
			require.Equal(t, want, content(t, got[i]))
			blamed, ok := got[i].MetaGet("to_blame")
			require.Equal(t, i == 1, ok)
			if ok {
				require.Contains(t, blamed, "killed")
			}
		}
	})
}

// What a stopped worker has goes to another one: after the timeout, or when the worker was killed.
func TestStoppedWorker(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		for _, how := range []struct{ conf, logged string }{
			{"timeout: 2s, heartbeat: 0s", "sent again"},
			{"timeout: 0s, heartbeat: 400ms", "has ended"},
		} {
			t.Run(how.conf, func(t *testing.T) {
				s := start(t, 4, tandem(driver, "workers: 2, concurrency: 2, attempts: 10, "+how.conf))
				stopped := pid(t, s.through(message("a"))[0])
				stop(t, stopped)
				var all sync.WaitGroup
				for i := range 4 {
					all.Go(func() {
						if err := s.send(t.Context(), service.MessageBatch{message("x", "id", strconv.Itoa(i))}); err != nil {
							t.Error(err)
						}
					})
				}
				all.Wait()
				ids := make(map[string]bool)
				for _, m := range s.through(message("last")) {
					require.NoError(t, m.GetError())
					require.NotEqual(t, stopped, pid(t, m))
					id, _ := m.MetaGet("id")
					ids[id] = true
				}
				require.Len(t, ids, 5)
				// That a worker has ended is logged beside the batches, perhaps after them.
				require.Eventually(t, func() bool { return strings.Contains(s.log.String(), how.logged) }, time.Minute, time.Millisecond)
			})
		}
	})
}

// stop stops a process until the test ends, and returns when all its threads stand still, or when heartbeats have had it killed.
func stop(t *testing.T, pid int) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the test sees only on Linux whether a process stands still")
	}
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // so that it can end
	require.Eventually(t, func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		require.NoError(t, err)
		return !slices.ContainsFunc(threads, func(file string) bool {
			stat, err := os.ReadFile(file)
			return err == nil && !strings.Contains(string(stat), ") T ") && !strings.Contains(string(stat), ") Z ") && !strings.Contains(string(stat), ") X ")
		})
	}, time.Minute, time.Millisecond)
}

// A stream that stops lets the workers finish, and leaves none.
func TestStopDrains(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		gate := filepath.Join(t.TempDir(), "gate")
		s := start(t, 1, tandem(driver, ""))
		worker := pid(t, s.through(message("a"))[0])
		sent := make(chan error, 1)
		go func() { sent <- s.send(t.Context(), service.MessageBatch{message("b", "do", "hang "+gate)}) }()
		require.Eventually(t, func() bool {
			_, err := os.Stat(gate + ".begun")
			return err == nil
		}, time.Minute, time.Millisecond)
		stopped := make(chan error, 1)
		go func() { stopped <- s.stop() }()
		require.NoError(t, os.WriteFile(gate, nil, 0o600))
		require.NoError(t, <-sent)
		require.NoError(t, <-stopped)
		require.Len(t, s.got, 1)
		require.Equal(t, "B", content(t, s.got[0][0]))
		require.ErrorIs(t, syscall.Kill(worker, 0), syscall.ESRCH, "the worker was left")
	})
}
