//go:build linux

package worker_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// reaper is the name of a host whose children are reaped by others than us.
const reaper = "test-reaper"

func init() { programs[reaper] = beReaper }

func beReaper() error {
	switch os.Args[2] {
	case "ignore":
		signal.Ignore(syscall.SIGCHLD)
	case "reap":
		go func() {
			for {
				if pid, _ := syscall.Wait4(-1, nil, 0, nil); pid <= 0 {
					time.Sleep(time.Millisecond)
				}
			}
		}()
	}
	for _, s := range spawners {
		if s.name != os.Args[1] {
			continue
		}
		for range 20 {
			w, err := s.spawn(context.Background(), worker.Self("test"))
			if err != nil {
				return err
			}
			if err := w.Close(); err != nil {
				return fmt.Errorf("close: %w", err)
			}
		}
		w, err := s.spawn(context.Background(), worker.Self("test"))
		if err != nil {
			return err
		}
		_, err = crash.Call(context.Background(), w, "exit")
		fmt.Println(err)
		fmt.Println(w.Close())
	}
	return nil
}

// Where others learn how a worker has ended, that is not known, and no failure.
func TestHostThatReapsAll(t *testing.T) {
	program := link(t, reaper)
	for _, s := range spawners {
		for _, how := range []string{"ignore", "reap"} {
			out, err := exec.Command(program, s.name, how).CombinedOutput()
			require.NoError(t, err, "%s %s: %s", s.name, how, out)
			require.Contains(t, string(out), "last words: exit")
			if how == "ignore" {
				require.Contains(t, string(out), "how it has ended is not known")
			}
		}
	}
}

// Children of a dead worker that hold all that it had inherited do not delay the news.
func TestChildrenOfADeadWorker(t *testing.T) {
	program := link(t, testProgram)
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		pidFile := filepath.Join(t.TempDir(), "pid")
		cmd := exec.Command("/bin/sh", "-c", `sleep 1000 & echo $! >"$1"; exec "$0"`, program, pidFile)
		w, err := s.spawn(t.Context(), cmd, worker.WithCallTimeout(0))
		require.NoError(t, err)
		b, err := os.ReadFile(pidFile)
		require.NoError(t, err)
		child, err := strconv.Atoi(strings.TrimSpace(string(b)))
		require.NoError(t, err)
		defer func() { _ = syscall.Kill(child, syscall.SIGKILL) }()
		var exit *worker.ExitError
		_, err = crash.Call(t.Context(), w, "exit")
		require.ErrorAs(t, err, &exit)
		require.Equal(t, 3, exit.Code)
		_, err = crash.Call(t.Context(), w, "exit")
		require.ErrorIs(t, err, ipc.ErrPeerGone)
		require.Equal(t, exit, w.Close())
		eventually(t, "it sleeps and holds all that it has", func() bool { return state(child) == "S" })
	})
}
