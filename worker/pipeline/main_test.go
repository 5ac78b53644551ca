//go:build unix

package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

// record is what goes through the pipelines of the tests.
type record struct {
	N    int
	Key  string
	Data []byte
	// Do says what its handler does: see act.
	Do string
}

// answer is what a stage makes of a record.
type answer struct {
	N   int
	Key string
	Sum uint32
	PID int
}

// The contract of the test worker.
var (
	sum      = ipc.NewMethod[record, answer]("test.sum")
	sumPlain = ipc.NewMethod[record, answer]("test.sum_plain") // by worker.Handle alone
	again    = ipc.NewMethod[answer, answer]("test.again")
	echo     = ipc.NewMethod[[]byte, []byte]("test.echo", ipc.WithCodec(ipc.Raw))
	slow     = ipc.NewMethod[[]byte, []byte]("test.slow", ipc.WithCodec(ipc.Raw))
	parts    = ipc.NewMethod[record, []answer]("test.parts")
	blow     = ipc.NewMethod[int, []byte]("test.blow") // makes so many bytes
	version  = ipc.NewMethod[int, string]("test.version")
	items    = ipc.NewServerStream[record, answer]("test.items")
	none     = ipc.NewMethod[record, answer]("test.none")
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	worker.Main("test", func() error { return serve("one") })
	worker.Main("other", func() error { return serve("two") })
	if how, ok := os.LookupEnv(hostVariable); ok {
		_ = os.Unsetenv(hostVariable)
		if err := hostMain(how); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(drivertest.VerifyNoLeaks(drivertest.Quiet(m.Run)))
}

func serve(name string) error {
	s := worker.NewServer()
	pipeline.Handle(s, sum, handleSum)
	worker.Handle(s, sumPlain, handleSum)
	pipeline.Handle(s, again, func(_ context.Context, a answer) (answer, error) {
		a.Sum++
		return a, nil
	})
	pipeline.Handle(s, echo, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	pipeline.Handle(s, slow, func(_ context.Context, b []byte) ([]byte, error) {
		time.Sleep(20 * time.Microsecond)
		return b, nil
	})
	pipeline.Handle(s, parts, func(ctx context.Context, r record) ([]answer, error) {
		all := make([]answer, len(r.Data))
		for i := range all {
			all[i] = answer{N: r.N, Key: r.Key, Sum: uint32(i)}
		}
		return all, act(ctx, r)
	})
	worker.HandleServerStream(s, items, func(ctx context.Context, r record, out *ipc.Sender[answer]) error {
		for i := range r.Data {
			if i == len(r.Data)/2 { // some are on their way
				if err := act(ctx, r); err != nil {
					return err
				}
			}
			if err := out.Send(ctx, answer{N: r.N, Sum: uint32(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	pipeline.Handle(s, blow, func(_ context.Context, n int) ([]byte, error) { return make([]byte, n), nil })
	pipeline.Handle(s, version, func(context.Context, int) (string, error) { return name, nil })
	return s.Serve(context.Background())
}

func handleSum(ctx context.Context, r record) (answer, error) {
	if err := act(ctx, r); err != nil {
		return answer{}, err
	}
	return answer{N: r.N, Key: r.Key, Sum: crc32.ChecksumIEEE(r.Data), PID: os.Getpid()}, nil
}

// act does what a record says: "die", "hang", "wait FILE" until the file exists, "fail", "panic", "once FILE WHAT" as WHAT unless
// the file exists.
func act(ctx context.Context, r record) error {
	what, arg, _ := strings.Cut(r.Do, " ")
	switch what {
	case "die":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Minute)
	case "exit":
		os.Exit(7)
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		time.Sleep(time.Minute) // another thread may be told first
	case "hang":
		<-ctx.Done()
		time.Sleep(time.Hour)
	case "wait":
		for {
			if _, err := os.Stat(arg); err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			time.Sleep(time.Millisecond)
		}
	case "fail":
		return ipc.NewError(ipc.CodeInvalidArgument, "no good: "+arg)
	case "panic":
		panic("no good: " + arg)
	case "once":
		file, what, _ := strings.Cut(arg, " ")
		if f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			f.Close()
			return act(ctx, record{Do: what})
		}
	}
	return nil
}

// workers is a pool of either driver.
type workers struct {
	anyPool
	pids func() []int
}

type anyPool interface {
	ipc.StreamCaller
	Stats() pool.Stats
	For(key string) ipc.Caller
	Replace(context.Context, *exec.Cmd) error
	Close() error
}

// restartAlways starts workers again at once, however often they end.
var restartAlways = worker.WithRestart(worker.Restart{Delay: time.Millisecond, MaxDelay: 20 * time.Millisecond, MaxRestarts: -1})

func startPool(t testing.TB, driver string, n int, opts ...pool.Option) *workers {
	t.Helper()
	if driver == socketName {
		return start(t, n, socket.Driver{}, opts)
	}
	return start(t, n, shm.Driver{}, opts)
}

const socketName = "socket"

func start[C drivers.Channel](t testing.TB, n int, driver drivers.Driver[C], opts []pool.Option) *workers {
	t.Helper()
	cmd := worker.Self("test")
	cmd.Stderr = io.Discard
	opts = append([]pool.Option{pool.WithWorkers(restartAlways, worker.WithGrace(time.Second))}, opts...)
	p, err := pool.New(context.Background(), n, cmd, driver, opts...)
	if errors.Is(err, ipc.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return &workers{p, func() (pids []int) {
		for _, c := range p.Clients() {
			pids = append(pids, c.PID())
		}
		return pids
	}}
}

// onBoth runs a test with each driver.
func onBoth(t *testing.T, f func(t *testing.T, driver string)) {
	for _, driver := range []string{shm.Name, socketName} {
		t.Run(driver, func(t *testing.T) { f(t, driver) })
	}
}

// count yields records from 0 on.
func count(n int, make func(i int) record) iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		for i := range n {
			r := make(i)
			if r.N = i; !yield(r, nil) {
				return
			}
		}
	}
}

// collector is a sink that keeps all.
type collector[T any] struct {
	mu    sync.Mutex
	items []pipeline.Item[T]
}

func (c *collector[T]) Write(_ context.Context, items []pipeline.Item[T]) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.items = append(c.items, items...)
	return nil
}

func (c *collector[T]) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.items)
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

// within runs f, and fails if that hangs.
func within(t testing.TB, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(90 * time.Second):
		t.Fatal("it hangs")
		return nil
	}
}

func touch(t testing.TB, file string) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, nil, 0o600))
}
