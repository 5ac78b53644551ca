//go:build linux

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// quietHost is the name of a program that uses workers in many ways, and after each has
// no goroutine of the library: what go.uber.org/goleak asks of a user's tests.
const quietHost = "test-quiet-host"

func init() { programs[quietHost] = beQuietHost }

// librarys returns the goroutines that run code of the library, other than this one.
func librarys() string {
	stacks := make([]byte, 4<<20)
	var found []string
	for i, g := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if i > 0 && strings.Contains(g, "github.com/tandemipc/tandem") {
			found = append(found, g)
		}
	}
	return strings.Join(found, "\n\n")
}

// allQuiet waits until no goroutine but the main one is left.
func allQuiet() error {
	for end := time.Now().Add(30 * time.Second); librarys() != ""; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("goroutines are left:\n" + librarys())
		}
	}
	return goleak.Find() // which knows those of the runtime
}

// uses are ways to use a worker, up to its end.
var uses = []struct {
	name string
	use  func(s spawner) error
}{
	{"calls", func(s spawner) error {
		w, err := s.spawn(context.Background(), worker.Self("test"), worker.WithEvents(func(worker.Event) {}),
			worker.WithHeartbeat(time.Millisecond, time.Minute), worker.WithOutput(slog.Default()))
		if err != nil {
			return err
		}
		worker.Handle(w, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
		_, err = callback.Call(context.Background(), w, 1)
		return errors.Join(err, w.Close())
	}},
	{"calls that end early", func(s spawner) error {
		w, err := s.spawn(context.Background(), worker.Self("test"))
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		f, err := block.Go(ctx, w, "x")
		if err != nil {
			return err
		}
		_, timeout := block.Call(context.Background(), w, "y", ipc.WithTimeout(10*time.Millisecond))
		cancel()
		_, err = f.Wait(context.Background())
		if !errors.Is(err, context.Canceled) || !errors.Is(timeout, context.DeadlineExceeded) {
			return fmt.Errorf("got %w, %w", err, timeout)
		}
		return w.Close()
	}},
	{"failed starts", func(s spawner) error {
		for _, cmd := range []*exec.Cmd{exec.Command("/nowhere"), exec.Command("/bin/true"), worker.Self("exit"), {Path: "/bin/true", Dir: "/nowhere"}} {
			if _, err := s.spawn(context.Background(), cmd, worker.WithEvents(func(worker.Event) {}), worker.WithOutput(slog.Default())); err == nil {
				return fmt.Errorf("%v has started", cmd)
			}
		}
		return nil
	}},
	{"cancelled and late starts", func(s spawner) error {
		for _, after := range []time.Duration{0, time.Millisecond, 30 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(context.Background(), after)
			w, err := s.spawn(ctx, worker.Self("mute"))
			cancel()
			if err == nil {
				return errors.Join(errors.New("it has started"), w.Close())
			}
		}
		_, err := s.spawn(context.Background(), worker.Self("mute"), worker.WithStartTimeout(30*time.Millisecond))
		if !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("got %w", err)
		}
		return nil
	}},
	{"restarts", func(s spawner) error {
		w, err := s.spawn(context.Background(), worker.Self("test"), worker.WithRestart(worker.Restart{Delay: time.Millisecond}))
		if err != nil {
			return err
		}
		for range 3 {
			if _, err := crash.Call(context.Background(), w, "exit"); err == nil {
				return errors.New("it lives")
			}
			if _, err := add.Call(context.Background(), w, pair{}); err != nil {
				return err
			}
		}
		return w.Close()
	}},
	{"workers that die", func(s spawner) error {
		for _, how := range []string{"exit", "kill", "hang up"} {
			w, err := s.spawn(context.Background(), worker.Self("test"), worker.WithHeartbeat(time.Second, time.Minute))
			if err != nil {
				return err
			}
			if _, err := crash.Call(context.Background(), w, how); err == nil {
				return errors.New("it lives")
			}
			_ = w.Close() // it says how the worker has ended
		}
		return nil
	}},
	{"workers that are given up", func(s spawner) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		cmd := worker.Self("test")
		cmd.Path = filepath.Join(os.TempDir(), "quiet")
		if err := os.Symlink(self, cmd.Path); err != nil {
			return err
		}
		w, err := s.spawn(context.Background(), cmd, worker.WithRestart(worker.Restart{Delay: time.Millisecond, MaxRestarts: 1}))
		if err := errors.Join(err, os.Remove(cmd.Path)); err != nil { // it is not there to be started again
			return err
		}
		_, _ = crash.Call(context.Background(), w, "exit")
		if _, err := add.Call(context.Background(), w, pair{}); !errors.Is(err, ipc.ErrPeerGone) {
			return fmt.Errorf("got %w", err)
		}
		_ = w.Close()
		return nil
	}},
	{"many workers", func(s spawner) error { // more sleepers than have threads of their own
		var all []client
		for range 24 {
			w, err := s.spawn(context.Background(), worker.Self("test"))
			if err != nil {
				return err
			}
			all = append(all, w)
		}
		for _, w := range all {
			if _, err := add.Call(context.Background(), w, pair{}); err != nil {
				return err
			}
		}
		for _, w := range all {
			if err := w.Close(); err != nil {
				return err
			}
		}
		return nil
	}},
	{"stubborn workers", func(s spawner) error {
		w, err := s.spawn(context.Background(), worker.Self("stubborn"), worker.WithGrace(10*time.Millisecond))
		if err != nil {
			return err
		}
		var exit *worker.ExitError
		if err := w.Close(); !errors.As(err, &exit) || exit.Signal != syscall.SIGKILL {
			return fmt.Errorf("got %w", err)
		}
		return nil
	}},
	{"connections that come and go", func(s spawner) error {
		if s.name != "socket" {
			return nil
		}
		w, err := worker.Spawn(context.Background(), worker.Self("test"),
			socket.Driver{Connect: socket.Connect{Auto: true, OnState: func(socket.State) {}}}, worker.WithResume(1<<20))
		if err != nil {
			return err
		}
		for range 3 {
			if err := errors.Join(w.Channel().Disconnect(), w.Channel().Reconnect(context.Background())); err != nil {
				return err
			}
		}
		if err := errors.Join(w.Channel().Disconnect(), w.Close()); err != nil {
			return err
		}
		detached, err := worker.Spawn(context.Background(), worker.Self("test"), socket.Driver{Detached: true})
		if err != nil {
			return err
		}
		ref := detached.Channel().Ref()
		if _, err := detached.Channel().Detach(); err != nil {
			return err
		}
		attached, err := worker.Attach(context.Background(), ref, socket.Connect{})
		if err != nil {
			return err
		}
		return errors.Join(detached.Close(), attached.Close())
	}},
}

func beQuietHost() error {
	for _, s := range spawners {
		if s.name != os.Args[1] {
			continue
		}
		for _, u := range uses {
			if err := u.use(s); err != nil {
				return fmt.Errorf("%s: %w", u.name, err)
			}
			if err := allQuiet(); err != nil {
				return fmt.Errorf("after %s: %w", u.name, err)
			}
		}
		return nil
	}
	return fmt.Errorf("no driver %s", os.Args[1])
}

// Once everything is closed no goroutine of the library is left, whatever has happened.
func TestNoGoroutineIsLeft(t *testing.T) {
	program := link(t, quietHost)
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		cmd := exec.Command(program, s.name)
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
}
