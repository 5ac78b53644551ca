//go:build linux

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
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
	"github.com/tandemipc/tandem/worker/pool"
)

// shortHost is the name of a program that takes its own resources away, and is a host.
const shortHost = "short-host"

// shortHosts are what it can do, by its first argument.
var shortHosts = map[string]func(ctx context.Context, dir string, args ...string) error{
	"start": startUnderShortage, "reconnect": reconnectUnderShortage, "attach": attachUnderShortage, "restart": restartUnderShortage,
	"pool": poolUnderShortage,
}

func init() {
	programs[shortHost] = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		return shortHosts[os.Args[1]](ctx, os.Args[2], os.Args[3:]...)
	}
}

// endOfGo is what Go says when it ends a process that has no memory or thread for it. No
// library can keep it from that.
var endOfGo = regexp.MustCompile(`(?m)^(fatal error: .*(out of memory|cannot allocate memory|newosproc)|runtime: failed to create new OS thread|runtime/cgo: pthread_create failed)`)

// fewThreads is the environment of a process that is to be short of addresses: each thread, and each arena of the C
// library, takes some, and Go ends the process if there are none for a new thread.
func fewThreads() []string {
	return append(os.Environ(), "GOMAXPROCS=2", "MALLOC_ARENA_MAX=1")
}

// runShortHost runs that program, with a directory for sockets.
func runShortHost(t *testing.T, args ...string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "h")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // it hangs
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.WaitDelay = time.Second
	cmd.Args = append([]string{shortHost, args[0], dir}, args[1:]...)
	cmd.Env = append(fewThreads(), "TMPDIR="+dir, "XDG_RUNTIME_DIR=")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState.ExitCode() != 1 && endOfGo.Match(out) {
		_ = os.RemoveAll(dir)
		t.Skipf("Go itself has too little in the host: %s", out)
	}
	require.NoError(t, err, string(out))
	require.NoError(t, os.Remove(dir), "no file is left")
}

// A host that is short of something gets an error that names it, whichever step of the
// start comes to need it. Nothing is left of the start, and a later one works.
func TestHostIsShort(t *testing.T) {
	for _, resource := range []string{"files", "address space"} {
		for _, s := range shortageSpawners(resource, "") {
			t.Run(resource+" "+s.name, func(t *testing.T) {
				if resource == "address space" && raceDetector() {
					t.Skip("the race detector maps memory as it likes")
				}
				runShortHost(t, "start", resource, s.name)
			})
		}
	}
}

func startUnderShortage(ctx context.Context, dir string, args ...string) error {
	resource, name := args[0], args[1]
	all := shortageSpawners(resource, dir)
	s := all[slices.IndexFunc(all, func(s spawner) bool { return s.name == name })]
	start := func() (client, error) {
		cmd := worker.Self("test")
		cmd.Stderr = new(discard)
		return s.spawn(ctx, cmd)
	}
	startAndUse := func() error {
		w, err := start()
		if err != nil {
			return err
		}
		return works(ctx, w)
	}
	if err := startAndUse(); err != nil {
		return err
	}
	var limits []func() uint64
	limited := unix.RLIMIT_NOFILE
	for free := range 26 {
		limits = append(limits, func() uint64 { return leaktest.FilesFor(free) })
	}
	if resource == "address space" {
		limited, limits = unix.RLIMIT_AS, nil
		for more := uint64(64 << 20); more <= 64<<20+4*largeRing; more += 32 << 20 {
			limits = append(limits, func() uint64 { return leaktest.AddressSpace() + more })
		}
	}
	base := drivertest.NewBaseline()
	started, refused := 0, 0
	for step, limit := range limits {
		var w client
		var err error
		if err := leaktest.UnderLimit(limited, limit(), func() { w, err = start() }); err != nil {
			return err
		}
		if err == nil {
			started++
			err = works(ctx, w)
			if resource == "address space" && err != nil { // the worker has the limit for good
				err = shortage(err, true)
			}
		} else {
			if errors.Is(err, ipc.ErrExhausted) {
				refused++
			} else if resource == "files" {
				return fmt.Errorf("step %d: %w", step, err)
			}
			err = shortage(err, name == "socket-detached")
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if leaks := base.Leaks(); len(leaks) > 0 {
			return fmt.Errorf("step %d: left: %s", step, strings.Join(leaks, ", "))
		}
		if err := startAndUse(); err != nil {
			return fmt.Errorf("step %d: after the shortage: %w", step, err)
		}
	}
	if started == 0 || refused == 0 && (resource == "files" || name == "shm-large") {
		return fmt.Errorf("%d starts, %d refused: the sweep has missed the border", started, refused)
	}
	return nil
}

// A pool whose host has descriptors for some of its workers only is not made, and the error
// says why. Nothing is left of those that could be started.
func TestPoolOfAShortHost(t *testing.T) { runShortHost(t, "pool") }

func poolUnderShortage(ctx context.Context, _ string, _ ...string) error {
	made, refused := 0, 0
	var base *drivertest.Baseline
	for free := 0; free <= 80; free += 8 {
		var p *pool.Pool[*shm.Channel]
		var err error
		start := func() { p, err = pool.New(ctx, 4, worker.Self("test"), shm.Driver{}) }
		if base == nil {
			start()
			if err = errors.Join(err, p.Close()); err != nil {
				return err
			}
			base = drivertest.NewBaseline()
		}
		if err := leaktest.UnderLimit(unix.RLIMIT_NOFILE, leaktest.FilesFor(free), start); err != nil {
			return err
		}
		switch {
		case err == nil:
			made++
			_, err = add.Call(ctx, p, pair{})
			err = errors.Join(err, p.Close())
		case errors.Is(err, ipc.ErrExhausted):
			refused++
			err = nil
		}
		if err != nil {
			return fmt.Errorf("with %d files: %w", free, err)
		}
		if leaks := base.Leaks(); len(leaks) > 0 {
			return fmt.Errorf("with %d files: left: %s", free, strings.Join(leaks, ", "))
		}
	}
	if made == 0 || refused == 0 {
		return fmt.Errorf("%d made, %d refused: the sweep has missed the border", made, refused)
	}
	return nil
}

// Reconnect of a host that has no descriptors says so, and a later one works.
func TestReconnectOfAShortHost(t *testing.T) {
	for _, how := range []string{"socket", "socket-path", "socket-detached"} {
		t.Run(how, func(t *testing.T) { runShortHost(t, "reconnect", how) })
	}
}

// socketDriver is one of shortageSpawners.
func socketDriver(how, dir string) socket.Driver {
	d := socket.Driver{Connect: socket.Connect{Attempts: 1}, Detached: how == "socket-detached"}
	if how == "socket-path" {
		d.Path = dir + "/s"
	}
	return d
}

func reconnectUnderShortage(ctx context.Context, dir string, args ...string) error {
	w, err := worker.Spawn(ctx, worker.Self("test"), socketDriver(args[0], dir))
	if err != nil {
		return err
	}
	defer w.Close()
	refused := 0
	for free := range 8 {
		if err := w.Channel().Disconnect(); err != nil {
			return err
		}
		var again error
		if err := leaktest.UnderLimit(unix.RLIMIT_NOFILE, leaktest.FilesFor(free), func() { again = w.Channel().Reconnect(ctx) }); err != nil {
			return err
		}
		if again != nil {
			refused++
			if !errors.Is(again, ipc.ErrExhausted) || !strings.Contains(again.Error(), "RLIMIT_NOFILE is ") {
				return fmt.Errorf("with %d files: %w", free, again)
			}
			if err := w.Channel().Reconnect(ctx); err != nil {
				return fmt.Errorf("after the shortage: %w", err)
			}
		}
		if _, err := add.Call(ctx, w, pair{}); err != nil {
			return fmt.Errorf("with %d files: %w", free, err)
		}
	}
	if refused == 0 || refused == 8 {
		return fmt.Errorf("%d of 8 refused: the sweep has missed the border", refused)
	}
	return w.Close()
}

// Attach of a host that has no descriptors says so, and does not take the worker for dead:
// a later one finds it.
func TestAttachOfAShortHost(t *testing.T) { runShortHost(t, "attach") }

func attachUnderShortage(ctx context.Context, _ string, _ ...string) error {
	base := drivertest.NewBaseline()
	w, err := worker.Spawn(ctx, worker.Self("test"), socketDriver("socket-detached", ""))
	if err != nil {
		return err
	}
	defer syscall.Kill(w.PID(), syscall.SIGKILL)
	ref, err := w.Channel().Detach()
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	refused := 0
	const steps = 14
	for free := range steps {
		var attached *worker.Client[*socket.Channel]
		var again error
		if err := leaktest.UnderLimit(unix.RLIMIT_NOFILE, leaktest.FilesFor(free), func() {
			attached, again = worker.Attach(ctx, ref, socket.Connect{Attempts: 1})
		}); err != nil {
			return err
		}
		if again != nil {
			refused++
			if !errors.Is(again, ipc.ErrExhausted) || errors.Is(again, socket.ErrStale) || errors.Is(again, ipc.ErrUnsupported) {
				return fmt.Errorf("with %d files: %w", free, again)
			}
			if attached, again = worker.Attach(ctx, ref, socket.Connect{}); again != nil {
				return fmt.Errorf("after the shortage, with %d files: %w", free, again)
			}
		}
		if _, err := add.Call(ctx, attached, pair{}); err != nil {
			return fmt.Errorf("with %d files: %w", free, err)
		}
		if free == steps-1 {
			err = attached.Close() // ends it
			break
		}
		if _, err := attached.Channel().Detach(); err != nil {
			return err
		}
		if err := attached.Close(); err != nil {
			return err
		}
	}
	if leaks := base.Leaks(); err == nil && len(leaks) > 0 {
		return fmt.Errorf("left: %s", strings.Join(leaks, ", "))
	}
	if err == nil && (refused == 0 || refused == steps) {
		return fmt.Errorf("%d of %d refused: the sweep has missed the border", refused, steps)
	}
	return err
}

// A restart of a host that has no descriptors is tried again, with a pause, and works when
// there are some.
func TestRestartOfAShortHost(t *testing.T) {
	for _, name := range []string{"shm", "socket"} {
		t.Run(name, func(t *testing.T) { runShortHost(t, "restart", name) })
	}
}

func restartUnderShortage(ctx context.Context, dir string, args ...string) error {
	all := shortageSpawners("files", dir)
	s := all[slices.IndexFunc(all, func(s spawner) bool { return s.name == args[0] })]
	happened := make(chan worker.Event, 10_000)
	next := func(kinds ...worker.EventKind) (worker.Event, error) {
		for {
			select {
			case e := <-happened:
				if slices.Contains(kinds, e.Kind) {
					return e, nil
				}
			case <-ctx.Done():
				return worker.Event{}, fmt.Errorf("no event %v: %w", kinds, ctx.Err())
			}
		}
	}
	w, err := s.spawn(ctx, worker.Self("test"), worker.WithEvents(func(e worker.Event) { happened <- e }),
		worker.WithRestart(worker.Restart{Delay: time.Millisecond, MaxDelay: time.Millisecond, MaxRestarts: -1}))
	if err != nil {
		return err
	}
	defer w.Close()
	refused, restarted := 0, 0
	// The descriptors of the process that has ended are free, too.
	for limit := range leaktest.FilesFor(12) {
		if _, err := next(worker.EventReady); err != nil {
			return err
		}
		var e worker.Event
		var failed error
		if err := leaktest.UnderLimit(unix.RLIMIT_NOFILE, limit, func() {
			_ = syscall.Kill(w.PID(), syscall.SIGKILL)
			if e, failed = next(worker.EventExited); failed == nil {
				e, failed = next(worker.EventExited, worker.EventReady)
			}
		}); err != nil || failed != nil {
			return errors.Join(err, failed)
		}
		if e.Kind == worker.EventReady {
			restarted++
			happened <- e
		} else if refused++; !errors.Is(e.Err, ipc.ErrExhausted) {
			return fmt.Errorf("limited to %d files: %w", limit, e.Err)
		}
		if _, err := add.Call(ctx, w, pair{}); err != nil {
			return fmt.Errorf("limited to %d files, after the shortage: %w", limit, err)
		}
	}
	if refused == 0 || restarted == 0 {
		return fmt.Errorf("%d refused, %d restarted: the sweep has missed the border", refused, restarted)
	}
	return w.Close()
}
