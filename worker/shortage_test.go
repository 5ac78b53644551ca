//go:build linux

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// largeRing is the size of rings that take most of the addresses that a sweep leaves.
const largeRing = 64 << 20

// shortageSpawners start workers in each way that takes other files or addresses. dir is
// for a socket.
func shortageSpawners(resource, dir string) []spawner {
	all := []spawner{
		spawnerFor("shm", shm.Driver{}),
		spawnerFor("socket", socket.Driver{}),
		spawnerFor("socket-path", socket.Driver{Path: filepath.Join(dir, "s")}),
		spawnerFor("socket-detached", socket.Driver{Detached: true}),
	}
	if resource == "address space" {
		all = append(all, spawnerFor("shm-large", shm.Driver{RingSize: largeRing}))
	}
	return all
}

// raceDetector reports whether this program was built for the race detector, which maps
// memory as it likes.
func raceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// shortage returns nil if err is what a start may fail with where a resource is short: it
// names the resource, or has the last words of a worker that Go has ended, unless it is
// mute, as a detached worker is.
func shortage(err error, mute bool) error {
	for _, wrong := range []error{ipc.ErrProtocol, ipc.ErrUnsupported, ipc.ErrDisconnected, context.DeadlineExceeded} {
		if errors.Is(err, wrong) {
			return fmt.Errorf("a shortage is taken for %q: %w", wrong, err)
		}
	}
	var exit *worker.ExitError
	switch {
	case errors.Is(err, ipc.ErrExhausted):
		if code := ipc.CodeOf(err); code != ipc.CodeResourceExhausted {
			return fmt.Errorf("code %v: %w", code, err)
		}
	case errors.As(err, &exit) && (exit.Stderr != "" || exit.Signal != nil || mute):
	default:
		return fmt.Errorf("a shortage is not named: %w", err)
	}
	return nil
}

// works makes a call and closes the worker.
func works(ctx context.Context, w client) error {
	sum, err := add.Call(ctx, w, pair{1, 2})
	if err == nil && sum != 3 {
		err = fmt.Errorf("1 + 2 = %d", sum)
	}
	return errors.Join(err, w.Close())
}

// fill makes a worker use up its descriptors.
var fill = ipc.NewMethod[int, int]("test.fill")

func init() {
	// A worker that a call leaves as many descriptors as argument 1 says, until SIGUSR1. If
	// that is less than none it takes the next one, too, and makes the directory argument 2.
	entries["full"] = func() error {
		leave, err := strconv.Atoi(os.Args[1])
		if err != nil {
			return err
		}
		var mu sync.Mutex
		var held []*os.File
		take := func() bool {
			mu.Lock()
			defer mu.Unlock()
			f, err := os.Open(os.DevNull)
			if err == nil {
				held = append(held, f)
			}
			return err == nil
		}
		give := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			for ; n > 0 && len(held) > 0; n-- {
				held[0].Close()
				held = held[1:]
			}
		}
		s := worker.NewServer()
		worker.Handle(s, fill, func(context.Context, int) (n int, err error) {
			for ; take(); n++ {
			}
			give(leave)
			if leave < 0 {
				go func() {
					for !take() {
						time.Sleep(time.Millisecond)
					}
					_ = os.Mkdir(os.Args[2], 0o700)
				}()
			}
			return n, nil
		})
		empty := make(chan os.Signal, 1)
		signal.Notify(empty, syscall.SIGUSR1)
		go func() {
			<-empty
			give(1000)
		}()
		return serveTest(s)
	}
	// A worker that takes the last of a resource before it serves.
	entries["short"] = func() error {
		amount, err := strconv.Atoi(os.Args[2])
		if err != nil {
			return err
		}
		if r, w, err := os.Pipe(); err == nil { // Go opens the descriptors of its poller once
			r.Close()
			w.Close()
		}
		resource, limit := unix.RLIMIT_NOFILE, uint64(0)
		switch os.Args[1] {
		case "files":
			limit = leaktest.FilesFor(amount)
		case "address space":
			resource, limit = unix.RLIMIT_AS, leaktest.AddressSpace()+uint64(amount)
		}
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return err
		}
		return serveTest(worker.NewServer())
	}
}

// A worker that has too little of something to serve says so, and the start fails with its
// reason. With a little more it serves. Nothing is left of those that could not.
func TestWorkerIsShort(t *testing.T) {
	for _, sweep := range []struct {
		resource string
		steps    []int
	}{
		{"files", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}},
		{"address space", []int{0, 1 << 20, 8 << 20, 32 << 20, 48 << 20, 64 << 20, 80 << 20, 96 << 20, 112 << 20, 128 << 20, 144 << 20, 160 << 20, 192 << 20, 256 << 20, 384 << 20, 1 << 30}},
	} {
		for _, s := range shortageSpawners(sweep.resource, t.TempDir()) {
			t.Run(sweep.resource+" "+s.name, func(t *testing.T) {
				if sweep.resource == "address space" && raceDetector() {
					t.Skip("the race detector maps memory as it likes")
				}
				base := drivertest.NewBaseline()
				served, refused := 0, 0
				for _, step := range sweep.steps {
					cmd := worker.Self("short")
					cmd.Args = append(cmd.Args, sweep.resource, strconv.Itoa(step))
					cmd.Stderr = new(discard)
					w, err := s.spawn(t.Context(), cmd)
					var reason *ipc.RefusedError
					switch {
					case err == nil:
						err := works(t.Context(), w)
						if err == nil {
							served++
						} else if sweep.resource == "address space" { // Go takes more as it runs
							err = shortage(err, s.name == "socket-detached")
						}
						require.NoError(t, err, "with %d", step)
					case errors.As(err, &reason):
						refused++
						require.ErrorIs(t, err, ipc.ErrExhausted)
						require.Contains(t, reason.Reason, map[string]string{"files": "RLIMIT_NOFILE is ", "address space": "RLIMIT_AS is "}[sweep.resource])
						require.Equal(t, ipc.CodeResourceExhausted, reason.Code)
						fallthrough
					default:
						require.NoError(t, shortage(err, s.name == "socket-detached"), "with %d", step)
						if sweep.resource == "files" {
							require.NotNil(t, reason, "with %d: %v", step, err)
						}
					}
					require.Empty(t, base.Leaks(), "with %d: %v", step, err)
				}
				require.Positive(t, served, "there was never enough")
				if sweep.resource == "files" || s.name == "shm-large" {
					require.Positive(t, refused, "there was always enough")
				}
				w, err := s.spawn(t.Context(), worker.Self("test"))
				require.NoError(t, err)
				require.NoError(t, works(t.Context(), w))
			})
		}
	}
}

// discard is a writer that no other command shares.
type discard struct{ _ byte }

func (*discard) Write(b []byte) (int, error) { return len(b), nil }

// However low the user sets the limits of a worker, it serves, or the start fails for that
// reason.
func TestLimitsThatAreTooLow(t *testing.T) {
	for _, s := range shortageSpawners("files", t.TempDir()) {
		t.Run(s.name, func(t *testing.T) {
			base := drivertest.NewBaseline()
			for n := range 24 {
				cmd := worker.Self("test")
				cmd.Stderr = new(discard)
				w, err := s.spawn(t.Context(), cmd, worker.WithMaxFiles(n+1))
				if err == nil {
					require.NoError(t, works(t.Context(), w), "with %d files", n+1)
				} else {
					require.NoError(t, shortage(err, s.name == "socket-detached"), "with %d files", n+1)
				}
				require.Empty(t, base.Leaks(), "with %d files: %v", n+1, err)
			}
			w, err := s.spawn(t.Context(), worker.Self("test"), worker.WithMaxFiles(40))
			require.NoError(t, err)
			require.NoError(t, works(t.Context(), w))
		})
	}
}

// A worker that has no descriptors tells each host that comes back, or another one that
// comes to it, and serves them when it has some. Until then the first connection works.
func TestReconnectToAShortWorker(t *testing.T) {
	for _, how := range []string{"socket", "socket-path", "socket-detached"} {
		t.Run(how, func(t *testing.T) {
			refused, reached := 0, 0
			for leave := -1; leave < 6; leave++ {
				cmd := worker.Self("full")
				full := filepath.Join(t.TempDir(), "full")
				cmd.Args = append(cmd.Args, strconv.Itoa(leave), full)
				w, err := worker.Spawn(t.Context(), cmd, socketDriver(how, t.TempDir()), worker.WithMaxFiles(64))
				require.NoError(t, err)
				n, err := fill.Call(t.Context(), w, 0)
				require.NoError(t, err)
				require.Greater(t, n, leave)
				_, err = add.Call(t.Context(), w, pair{})
				require.NoError(t, err)
				connected := true
				for range 3 {
					require.NoError(t, w.Channel().Disconnect())
					connected = false
					if leave < 0 {
						eventually(t, "what the connection held is taken", func() bool {
							_, err := os.Stat(full)
							return err == nil
						})
					}
					if err := w.Channel().Reconnect(t.Context()); err != nil {
						refused++
						var reason *ipc.RefusedError
						require.ErrorAs(t, err, &reason, "%d left: %v", leave, err)
						require.ErrorIs(t, err, ipc.ErrExhausted)
						require.Contains(t, reason.Reason, "RLIMIT_NOFILE is 64")
						continue
					}
					reached++
					connected = true
					require.GreaterOrEqual(t, leave, 0)
					_, err = add.Call(t.Context(), w, pair{})
					require.NoError(t, err)
				}
				if how == "socket-detached" && connected { // the session may not have noticed yet
					ref, err := w.Channel().Detach()
					require.NoError(t, err)
					require.NoError(t, w.Close())
					if w, err = worker.Attach(t.Context(), ref, socket.Connect{Attempts: 1}); err != nil {
						require.ErrorIs(t, err, ipc.ErrExhausted)
						require.NotErrorIs(t, err, socket.ErrStale)
						require.NoError(t, syscall.Kill(ref.PID, syscall.SIGUSR1))
						w, err = worker.Attach(t.Context(), ref, socket.Connect{Attempts: 1000, Delay: 1, MaxDelay: time.Millisecond})
						require.NoError(t, err)
					}
				}
				require.NoError(t, syscall.Kill(w.PID(), syscall.SIGUSR1))
				eventually(t, "it is reached again", func() bool { return w.Channel().Reconnect(t.Context()) == nil })
				_, err = add.Call(t.Context(), w, pair{})
				require.NoError(t, err)
				require.NoError(t, w.Close())
			}
			require.Positive(t, refused)
			require.Positive(t, reached)
		})
	}
}
