//go:build unix

package worker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// serviceDriver is a driver that listens and dials.
type serviceDriver interface {
	drivers.Dialer
	Listen(name string, cfg drivers.ListenConfig) (drivers.Listener, error)
}

var serviceDrivers = []serviceDriver{shm.Driver{}, socket.Driver{}}

// eachService runs a test with a service of each driver in a process of its own.
func eachService(t *testing.T, test func(t *testing.T, d serviceDriver, s *serviceProcess)) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) { test(t, d, startService(t, d, socketPath(t))) })
	}
}

// socketPath returns a path at which a socket can be made.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "t")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// serviceProcess is a process that runs the test worker's handlers as a service.
type serviceProcess struct {
	t    testing.TB
	cmd  *exec.Cmd
	name string
	in   io.Closer
	said *bufio.Reader
}

const serviceProgram = "tandem-test-service"

func init() { programs[serviceProgram] = runService }

// serviceDriverOfArgs is the driver that argument 1 names.
func serviceDriverOfArgs() serviceDriver {
	if os.Args[1] == "socket" {
		return socket.Driver{}
	}
	return shm.Driver{}
}

// runService serves under the name of argument 2, with the driver of argument 1, until stdin ends.
// Argument 3 may say how: takeover.
func runService() error {
	d := serviceDriverOfArgs()
	cfg := drivers.ListenConfig{TakeOver: len(os.Args) > 3 && os.Args[3] == "takeover"}
	l, err := d.Listen(os.Args[2], cfg)
	if err != nil {
		return err
	}
	s := worker.NewServer()
	handleTest(s)
	handleService(s)
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	fmt.Println("ready")
	err = s.ServeListener(ctx, l, worker.WithGrace(time.Minute))
	fmt.Println("served", err)
	return err
}

// startService starts a service and waits until it listens.
func startService(t testing.TB, d serviceDriver, name string, more ...string) *serviceProcess {
	t.Helper()
	return startProgram(t, serviceProgram, d, name, more...)
}

// startProgram starts a program of this file and waits until it says that it is ready.
func startProgram(t testing.TB, program string, d serviceDriver, name string, more ...string) *serviceProcess {
	t.Helper()
	s := &serviceProcess{t: t, name: name}
	s.cmd = exec.Command(link(t, program), append([]string{d.Name(), name}, more...)...)
	s.cmd.Stderr = os.Stderr
	in, err := s.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	s.in, s.said = in, bufio.NewReader(out)
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	})
	require.Equal(t, "ready\n", s.line())
	return s
}

func (s *serviceProcess) line() string {
	line, err := s.said.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return line
}

// stop ends the service in good order.
func (s *serviceProcess) stop() {
	s.in.Close()
	require.Equal(s.t, "served <nil>\n", s.line())
	require.NoError(s.t, s.cmd.Wait())
}

func (s *serviceProcess) kill() {
	require.NoError(s.t, s.cmd.Process.Kill())
	_ = s.cmd.Wait()
}

func (s *serviceProcess) pid() int { return s.cmd.Process.Pid }

func dial(t testing.TB, d drivers.Dialer, name string, opts ...worker.Option) *worker.ServiceClient {
	t.Helper()
	c, err := worker.Dial(t.Context(), name, d, append([]worker.Option{worker.WithStartTimeout(time.Minute)}, opts...)...)
	require.NoError(t, err)
	worker.Handle(c, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	t.Cleanup(func() { c.Close() })
	return c
}

var (
	whoAmI   = ipc.NewMethod[int, ipc.Peer]("test.who_am_i")
	appendTo = ipc.NewMethod[appending, int]("test.append_to")
)

// appending is a byte to be added to a file, after some time.
type appending struct {
	File string
	Wait time.Duration
}

// handleService registers what only a test service does.
func handleService(r worker.Registrar) {
	worker.Handle(r, whoAmI, func(ctx context.Context, _ int) (ipc.Peer, error) {
		p, ok := ipc.PeerOf(ctx)
		if !ok {
			return p, errors.New("no peer")
		}
		return p, nil
	})
	worker.Handle(r, appendTo, func(_ context.Context, a appending) (int, error) {
		time.Sleep(a.Wait)
		f, err := os.OpenFile(a.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		_, err = f.Write([]byte("x"))
		return os.Getpid(), err
	})
}

// useService does what clients do.
func useService(t *testing.T, d serviceDriver, c *worker.ServiceClient) {
	t.Helper()
	n, err := add.Call(t.Context(), c, pair{3, 4})
	require.NoError(t, err)
	require.Equal(t, 7, n)
	peer, err := whoAmI.Call(t.Context(), c, 0)
	require.NoError(t, err)
	require.Equal(t, ipc.Peer{PID: os.Getpid(), UID: os.Geteuid(), GID: os.Getegid(), Driver: d.Name()}, peer)

	big := make([]byte, 3<<20) // many times the ring
	big[0], big[len(big)-1] = 1, 2
	got, err := rawEcho.Call(t.Context(), c, big)
	require.NoError(t, err)
	require.Equal(t, big, got)

	_, err = fail.Call(t.Context(), c, "sentinel")
	require.ErrorIs(t, err, errSentinel)

	count := 0
	for n, err := range numbers.Stream(t.Context(), c, counting{N: 1000}) {
		require.NoError(t, err)
		require.Equal(t, count, n)
		count++
	}
	require.Equal(t, 1000, count)

	n, err = callback.Call(t.Context(), c, 21)
	require.NoError(t, err)
	require.Equal(t, 42, n)

	p := newProbe(t)
	said, err := fileUse.Call(t.Context(), c, p.parcelOf("take", 3))
	require.NoError(t, err)
	require.Equal(t, "taken", said)
	p.requireClosed(t)

	b, err := c.Alloc(t.Context(), 1<<20)
	require.NoError(t, err)
	b.Bytes()[1<<20-1] = 9
	back, err := bufferEcho.Call(t.Context(), c, b)
	require.NoError(t, err)
	require.Equal(t, byte(9), back.Bytes()[1<<20-1])
	back.Release()
	b.Release()

	_, err = block.Call(t.Context(), c, "s", ipc.WithTimeout(10*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestService(t *testing.T) {
	eachService(t, func(t *testing.T, d serviceDriver, s *serviceProcess) {
		c := dial(t, d, s.name)
		require.Equal(t, s.pid(), c.Peer().PID)
		require.Equal(t, os.Geteuid(), c.Peer().UID)
		require.Equal(t, d.Capabilities().SharedMemory, c.Capabilities().SharedMemory)
		require.True(t, c.Active())
		useService(t, d, c)

		var clients sync.WaitGroup
		for range 16 {
			other := dial(t, d, s.name)
			clients.Go(func() {
				for i := range 200 {
					n, err := add.Call(t.Context(), other, pair{i, 1})
					if n != i+1 || err != nil {
						t.Errorf("%d, %v", n, err)
						return
					}
				}
				other.Close()
			})
		}
		clients.Wait()
		require.NoError(t, c.Close())
		_, err := add.Call(t.Context(), c, pair{})
		require.ErrorIs(t, err, ipc.ErrClosed)
		s.stop()
		_, err = os.Lstat(s.name)
		require.ErrorIs(t, err, os.ErrNotExist)
		_, err = worker.Dial(t.Context(), s.name, d)
		require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err), "%v", err)
	})
}

// A name has one service.
func TestServiceIsThereOnce(t *testing.T) {
	eachService(t, func(t *testing.T, d serviceDriver, s *serviceProcess) {
		_, err := d.Listen(s.name, drivers.ListenConfig{})
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		c := dial(t, d, s.name)
		useService(t, d, c)
		s.kill()
		startService(t, d, s.name)
		useService(t, d, dial(t, d, s.name))
	})
}

// The two sides have to agree.
func TestServiceMismatch(t *testing.T) {
	for i, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			other := serviceDrivers[1-i]
			name := socketPath(t)
			l, err := d.Listen(name, drivers.ListenConfig{})
			require.NoError(t, err)
			s := worker.NewServer()
			s.RequireCodec(ipc.JSON)
			served := make(chan error)
			ctx, stop := context.WithCancel(t.Context())
			go func() { served <- s.ServeListener(ctx, l) }()

			_, err = worker.Dial(t.Context(), name, d)
			var refused *ipc.RefusedError
			require.ErrorAs(t, err, &refused)
			require.ErrorContains(t, err, "json")
			_, err = worker.Dial(t.Context(), name, other, worker.WithCodec(ipc.JSON))
			require.Error(t, err)
			require.ErrorContains(t, err, d.Name())
			require.ErrorContains(t, err, other.Name())
			c := dial(t, d, name, worker.WithCodec(ipc.JSON))
			_, err = unknown.Call(t.Context(), c, 1)
			require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(err))
			stop()
			require.NoError(t, <-served)

			l, err = d.Listen(name, drivers.ListenConfig{})
			require.NoError(t, err)
			s = worker.NewServer()
			s.RequireDriver(other.(drivers.Acceptor))
			var mismatch *ipc.MismatchError
			require.ErrorAs(t, s.ServeListener(t.Context(), l), &mismatch)
		})
	}
}

// The client of a service that is killed learns that, and one that connects again finds the next.
func TestServiceKilled(t *testing.T) {
	eachService(t, func(t *testing.T, d serviceDriver, s *serviceProcess) {
		plain := dial(t, d, s.name)
		events := make(chan worker.Event, 100)
		again := dial(t, d, s.name, worker.WithReconnect(worker.Reconnect{Delay: time.Millisecond, MaxDelay: 10 * time.Millisecond}),
			worker.WithRetry(3), worker.WithEvents(func(e worker.Event) { events <- e }))
		require.Equal(t, worker.EventReady, (<-events).Kind)
		results := make(chan error)
		for _, c := range []*worker.ServiceClient{plain, again} {
			go func() {
				_, err := block.Call(t.Context(), c, "until killed")
				results <- err
			}()
		}
		eventually(t, "both block", func() bool {
			return count(t, plain, "until killed.begin") == 2
		})
		s.kill()
		for range 2 {
			require.ErrorIs(t, <-results, ipc.ErrPeerGone)
		}
		_, err := add.Call(t.Context(), plain, pair{1, 1})
		require.ErrorIs(t, err, ipc.ErrPeerGone)
		require.False(t, plain.Active())
		e := <-events
		require.Equal(t, worker.EventDisconnected, e.Kind)
		require.ErrorIs(t, e.Err, ipc.ErrPeerGone)

		called := make(chan error)
		go func() { // it waits for the next service, whatever its method is declared
			n, err := add.Call(t.Context(), again, pair{2, 3})
			if n != 5 && err == nil {
				err = fmt.Errorf("got %d", n)
			}
			called <- err
		}()
		next := startService(t, d, s.name)
		require.NoError(t, <-called)
		require.Equal(t, next.pid(), again.Peer().PID)
		for e = <-events; e.Kind == worker.EventReconnecting; e = <-events {
			require.Error(t, e.Err)
		}
		require.Equal(t, worker.EventReconnected, e.Kind)
		require.Equal(t, next.pid(), e.PID)
		useService(t, d, again)
	})
}

// A call that a service had begun when it was killed is made again if its method is idempotent.
func TestServiceRetry(t *testing.T) {
	eachService(t, func(t *testing.T, d serviceDriver, s *serviceProcess) {
		c := dial(t, d, s.name, worker.WithRetry(5), worker.WithReconnect(worker.Reconnect{Delay: time.Millisecond, MaxDelay: 10 * time.Millisecond}))
		file := filepath.Join(t.TempDir(), "deaths")
		result := make(chan error)
		go func() {
			n, err := dieSafe.Call(t.Context(), c, death{File: file, Times: 2})
			if n != 3 && err == nil {
				err = fmt.Errorf("run %d times", n)
			}
			result <- err
		}()
		for range 2 {
			_ = s.cmd.Wait()
			s = startService(t, d, s.name)
		}
		require.NoError(t, <-result)
	})
}

// A restart that takes the listener over loses no call, runs none twice, and drops no notification.
func TestServiceTakeOver(t *testing.T) {
	eachService(t, func(t *testing.T, d serviceDriver, s *serviceProcess) {
		dir := t.TempDir()
		const callers = 4
		var made [callers]atomic.Int64
		var servers sync.Map
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var calling sync.WaitGroup
		file := func(i int) string { return filepath.Join(dir, fmt.Sprint(i)) }
		for i := range callers {
			c := dial(t, d, s.name, worker.WithReconnect(worker.Reconnect{Delay: time.Millisecond}))
			calling.Go(func() {
				for ctx.Err() == nil {
					pid, err := appendTo.Call(t.Context(), c, appending{File: file(i), Wait: time.Duration(i) * time.Millisecond})
					if err != nil {
						t.Errorf("caller %d: %v", i, err)
						return
					}
					servers.Store(pid, true)
					made[i].Add(1)
					if err := appendTo.Notify(t.Context(), c, appending{File: file(i) + "-told"}); err != nil {
						t.Errorf("caller %d: notify: %v", i, err)
						return
					}
				}
			})
		}
		const times = 5
		for range times {
			before := made[callers-1].Load()
			eventually(t, "calls", func() bool { return made[callers-1].Load() > before+3 })
			next := startService(t, d, s.name, "takeover")
			require.Equal(t, "served <nil>\n", s.line())
			require.NoError(t, s.cmd.Wait())
			s = next
		}
		stop()
		calling.Wait()
		seen := 0
		servers.Range(func(any, any) bool { seen++; return true })
		require.Greater(t, seen, times/2)
		for i := range callers {
			b, err := os.ReadFile(file(i))
			require.NoError(t, err)
			require.Equal(t, made[i].Load(), int64(len(b)), "caller %d", i)
			eventually(t, "each notification", func() bool {
				b, err := os.ReadFile(file(i) + "-told")
				return err == nil && int64(len(b)) == made[i].Load()
			})
		}
		useService(t, d, dial(t, d, s.name))
		s.stop()
	})
}
