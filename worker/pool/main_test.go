//go:build unix

package pool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

type pair struct{ A, B int }

type pids struct {
	PID  int
	Data map[string]int
}

// The contract of the test worker.
var (
	rawEcho  = ipc.NewMethod[[]byte, []byte]("test.raw_echo", ipc.WithCodec(ipc.Raw))
	add      = ipc.NewMethod[pair, int]("test.add")
	fail     = ipc.NewMethod[string, int]("test.fail")
	block    = ipc.NewMethod[string, string]("test.block")     // until its context ends
	callback = ipc.NewMethod[int, int]("test.callback")        // calls double on the host
	double   = ipc.NewMethod[int, int]("test.double")          // the host's
	sleep    = ipc.NewMethod[time.Duration, int]("test.sleep") // sleeps for so long
	pid      = ipc.NewMethod[int, pids]("test.pid")
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	worker.Main("test", serveTest)
	worker.Main("text", serveText)
	worker.Main("exit", func() error { return errors.New("no configuration found") })
	worker.Main("mute", func() error {
		for {
			time.Sleep(time.Hour)
		}
	})
	os.Exit(drivertest.VerifyNoLeaks(drivertest.Quiet(m.Run)))
}

func serveTest() error {
	s := worker.NewServer()
	worker.Handle(s, rawEcho, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	worker.Handle(s, add, func(_ context.Context, p pair) (int, error) { return p.A + p.B, nil })
	worker.Handle(s, fail, func(_ context.Context, how string) (int, error) {
		return 0, ipc.NewError(ipc.CodeNotFound, how)
	})
	worker.Handle(s, block, func(ctx context.Context, _ string) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	})
	worker.Handle(s, callback, func(ctx context.Context, n int) (int, error) { return double.Call(ctx, worker.Host(ctx), n) })
	worker.Handle(s, sleep, func(_ context.Context, d time.Duration) (int, error) {
		time.Sleep(d)
		return 1, nil
	})
	worker.Handle(s, pid, func(context.Context, int) (pids, error) {
		p := pids{PID: os.Getpid()}
		_ = drivers.Startup().Data(&p.Data) // only one test passes data
		return p, nil
	})
	handleChat(s)
	return s.Serve(context.Background())
}

// eventually waits for a condition, without a limit but the test's.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); {
		if time.Since(start) > time.Minute {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// gone reports whether a process has been reaped.
func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// stop stops a process and waits until it has stopped.
func stop(t *testing.T, pid int) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	eventually(t, "stopped", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, state, _ := strings.Cut(string(b), ") ")
		return strings.HasPrefix(state, "T")
	})
}
