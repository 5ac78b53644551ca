//go:build unix

package worker_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// serveHere serves the test worker's handlers in this process until the test ends or stop is called.
func serveHere(t testing.TB, d serviceDriver, name string, cfg drivers.ListenConfig, opts ...worker.Option) (stop func() error) {
	t.Helper()
	l, err := d.Listen(name, cfg)
	require.NoError(t, err)
	s := worker.NewServer()
	handleTest(s)
	handleService(s)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.ServeListener(ctx, l, opts...) }()
	stop = func() error {
		cancel()
		err := <-served
		served <- err
		return err
	}
	t.Cleanup(func() { require.NoError(t, stop()) })
	return stop
}

// helloOf is the hello of a client of a driver.
func helloOf(d drivers.Dialer) drivers.Hello {
	h := drivers.Hello{
		Protocol: drivers.ProtocolVersion, Driver: d.Name(), Codec: "cbor", ByteOrder: drivers.ByteOrderMark, Layout: 1,
		MaxMessage: drivers.DefaultMaxMessage, Window: drivers.DefaultWindow, PID: os.Getpid(),
	}
	return h
}

// hostileHellos are what a client may say in the place of a proper hello. conn is closed afterwards.
var hostileHellos = map[string]func(t *testing.T, d serviceDriver, conn *net.UnixConn){
	"nothing": func(*testing.T, serviceDriver, *net.UnixConn) {},
	"silence": func(_ *testing.T, _ serviceDriver, conn *net.UnixConn) { readAll(conn) },
	"garbage": func(_ *testing.T, _ serviceDriver, conn *net.UnixConn) {
		say(conn, []byte(strings.Repeat("GET / HTTP/1.1\r\n", 100)))
	},
	"half": func(t *testing.T, d serviceDriver, conn *net.UnixConn) { say(conn, encoded(t, helloOf(d))[:20]) },
	"byte a time": func(t *testing.T, d serviceDriver, conn *net.UnixConn) {
		for _, b := range encoded(t, helloOf(d))[:10] {
			say(conn, []byte{b})
		}
	},
	"size that is too large": func(t *testing.T, d serviceDriver, conn *net.UnixConn) {
		b := encoded(t, helloOf(d))
		binary.LittleEndian.PutUint16(b[12:], 65535)
		say(conn, b)
		readAll(conn)
	},
	"no files":     func(t *testing.T, d serviceDriver, conn *net.UnixConn) { say(conn, encoded(t, helloOf(d))) },
	"many files":   func(t *testing.T, d serviceDriver, conn *net.UnixConn) { pass(t, conn, encoded(t, helloOf(d)), 16) },
	"another file": func(t *testing.T, d serviceDriver, conn *net.UnixConn) { pass(t, conn, encoded(t, helloOf(d)), 1) },
	"no window": func(t *testing.T, d serviceDriver, conn *net.UnixConn) {
		h := helloOf(d)
		h.Window = 0
		say(conn, encoded(t, h))
		readAll(conn)
	},
	"no messages": func(t *testing.T, d serviceDriver, conn *net.UnixConn) {
		h := helloOf(d)
		h.MaxMessage = -1
		say(conn, encoded(t, h))
		readAll(conn)
	},
	"negative timeout": func(t *testing.T, d serviceDriver, conn *net.UnixConn) {
		h := helloOf(d)
		h.CallTimeout = -1
		say(conn, encoded(t, h))
		readAll(conn)
	},
	"unknown codec": func(t *testing.T, d serviceDriver, conn *net.UnixConn) {
		h := helloOf(d)
		h.Codec = strings.Repeat("x", 1000)
		say(conn, encoded(t, h))
		readAll(conn)
	},
	"refusal": func(_ *testing.T, _ serviceDriver, conn *net.UnixConn) { say(conn, drivers.AppendRefusal(nil, "no")) },
	"ready":   func(_ *testing.T, _ serviceDriver, conn *net.UnixConn) { say(conn, drivers.AppendReady(nil)) },
	"successor that does not confirm": func(t *testing.T, d serviceDriver, conn *net.UnixConn) {
		h := helloOf(d)
		h.Driver = "successor"
		say(conn, encoded(t, h))
		b := make([]byte, 16)
		_, _ = conn.Read(b)
	},
	"successor that refuses": func(t *testing.T, d serviceDriver, conn *net.UnixConn) {
		h := helloOf(d)
		h.Driver = "successor"
		say(conn, append(encoded(t, h), drivers.AppendRefusal(nil, "no")...))
		b := make([]byte, 16)
		_, _ = conn.Read(b)
	},
}

func encoded(t *testing.T, h drivers.Hello) []byte {
	t.Helper()
	b, err := drivers.AppendHello(nil, h)
	require.NoError(t, err)
	return b
}

// say writes what it can.
func say(conn *net.UnixConn, b []byte) { _, _ = conn.Write(b) }

// readAll reads until the other side hangs up.
func readAll(conn *net.UnixConn) {
	b := make([]byte, 4096)
	for {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}

// pass writes b with n descriptors of a pipe.
func pass(t *testing.T, conn *net.UnixConn, b []byte, n int) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	var fds []int
	for range n {
		fds = append(fds, int(r.Fd()))
	}
	_, _, err = conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	require.NoError(t, err)
	readAll(conn)
}

// Whatever clients say or leave unsaid, others are served, and nothing is left of them.
func TestServiceHostileHellos(t *testing.T) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			name := socketPath(t)
			serveHere(t, d, name, drivers.ListenConfig{HelloTimeout: time.Second})
			honest := dial(t, d, name)
			_, err := add.Call(t.Context(), honest, pair{1, 2}) // so that it is served
			require.NoError(t, err)
			before := leaktest.Descriptors()
			for what, hello := range hostileHellos {
				t.Run(what, func(t *testing.T) {
					for range 3 {
						conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: name, Net: "unix"})
						require.NoError(t, err)
						hello(t, d, conn)
						conn.Close()
					}
					n, err := add.Call(t.Context(), honest, pair{1, 2})
					require.NoError(t, err)
					require.Equal(t, 3, n)
					other := dial(t, d, name)
					_, err = add.Call(t.Context(), other, pair{1, 2})
					require.NoError(t, err)
					require.NoError(t, other.Close())
					eventually(t, fmt.Sprint("descriptors are as before: ", before), func() bool { return maps.Equal(before, leaktest.Descriptors()) })
				})
			}
			_, err = os.Lstat(name)
			require.NoError(t, err, "the service is there still")
		})
	}
}

// Limits of clients are exact, and refusals say why.
func TestServiceLimits(t *testing.T) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			name := socketPath(t)
			serveHere(t, d, name, drivers.ListenConfig{MaxClients: 3})
			var clients []*worker.ServiceClient
			for round := range 3 {
				for len(clients) < 3 {
					c, err := worker.Dial(t.Context(), name, d)
					if round > 0 && err != nil { // the place of the one before may not be free yet
						require.ErrorIs(t, err, ipc.ErrExhausted)
						continue
					}
					require.NoError(t, err)
					clients = append(clients, c)
				}
				_, err := worker.Dial(t.Context(), name, d)
				var refused *ipc.RefusedError
				require.ErrorAs(t, err, &refused)
				require.ErrorIs(t, err, ipc.ErrExhausted)
				require.ErrorContains(t, err, "at most 3 clients")
				_, err = add.Call(t.Context(), clients[0], pair{1, 1})
				require.NoError(t, err)
				require.NoError(t, clients[round].Close())
				clients = append(clients[:round], clients[round+1:]...)
			}
			for _, c := range clients {
				require.NoError(t, c.Close())
			}
		})
	}
}

// Who may connect is said by functions of the user's, on both sides.
func TestServiceAllow(t *testing.T) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			name := socketPath(t)
			no := fmt.Errorf("not today")
			yes := make(chan drivers.Credentials, 10)
			var closed atomic.Bool
			serveHere(t, d, name, drivers.ListenConfig{Allow: func(c drivers.Credentials) error {
				yes <- c
				if closed.Load() {
					return no
				}
				return nil
			}})
			self := drivers.Credentials{UID: os.Geteuid(), GID: os.Getegid(), PID: os.Getpid()}
			c := dial(t, d, name, worker.WithPeerCheck(func(c drivers.Credentials) error {
				yes <- c
				return nil
			}))
			require.Equal(t, self, <-yes)
			require.Equal(t, self, <-yes)
			_, err := add.Call(t.Context(), c, pair{1, 1})
			require.NoError(t, err)
			_, err = worker.Dial(t.Context(), name, d, worker.WithPeerCheck(func(drivers.Credentials) error { return no }))
			require.ErrorIs(t, err, no)
			require.Equal(t, ipc.CodePermissionDenied, ipc.CodeOf(err))
			closed.Store(true)
			_, err = worker.Dial(t.Context(), name, d)
			require.Error(t, err)
			require.NotContains(t, err.Error(), no.Error(), "that is not a client's business")
			require.NoError(t, c.Close())
		})
	}
}

// A client that is stopped, or killed, in the middle of everything holds up nobody.
func TestServiceClientStoppedAndKilled(t *testing.T) {
	eachService(t, func(t *testing.T, d serviceDriver, s *serviceProcess) {
		honest := dial(t, d, s.name)
		var others []*serviceProcess
		for range 3 {
			others = append(others, startClient(t, d, s.name))
		}
		eventually(t, "calls of the others", func() bool { return count(t, honest, "client.begin") >= 3*2 })
		for i, o := range others {
			if i == 1 {
				o.kill()
			} else {
				stop(t, o.pid())
			}
			useService(t, d, honest)
		}
		eventually(t, "the handlers of the dead have ended", func() bool { return count(t, honest, "client.end") >= 2 })
		for range 20 {
			c := dial(t, d, s.name)
			useService(t, d, c)
			require.NoError(t, c.Close())
		}
		others[0].kill()
		others[2].kill()
		eventually(t, "all handlers have ended", func() bool { return count(t, honest, "client.end") == count(t, honest, "client.begin") })
		require.NoError(t, honest.Close())
		s.stop()
	})
}

const clientProgram = "tandem-test-client"

func init() { programs[clientProgram] = runClient }

// runClient keeps a service busy: with calls that block, a stream that nobody reads, and others.
func runClient() error {
	c, err := worker.Dial(context.Background(), os.Args[2], serviceDriverOfArgs())
	if err != nil {
		return err
	}
	for range 2 {
		go func() { _, _ = block.Call(context.Background(), c, "client") }()
	}
	st, err := numbers.Open(context.Background(), c, counting{N: 1 << 30})
	if err != nil {
		return err
	}
	if _, err := st.Receive(context.Background()); err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		if _, err := rawEcho.Call(context.Background(), c, make([]byte, 100_000)); err != nil {
			return err
		}
	}
}

// startClient starts a process that keeps a service busy.
func startClient(t testing.TB, d serviceDriver, name string) *serviceProcess {
	t.Helper()
	return startProgram(t, clientProgram, d, name)
}

// A service that is stopped keeps nobody for longer than they want to wait.
func TestServiceStopped(t *testing.T) {
	eachService(t, func(t *testing.T, d serviceDriver, s *serviceProcess) {
		c := dial(t, d, s.name, worker.WithGrace(0))
		stop(t, s.pid())
		_, err := add.Call(t.Context(), c, pair{1, 1}, ipc.WithTimeout(50*time.Millisecond))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = worker.Dial(ctx, s.name, d)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = worker.Dial(t.Context(), s.name, d, worker.WithStartTimeout(50*time.Millisecond))
		var timeout *ipc.TimeoutError
		require.ErrorAs(t, err, &timeout)
		_, err = d.Listen(s.name, drivers.ListenConfig{})
		require.ErrorIs(t, err, syscall.EADDRINUSE, "it lives")
		require.NoError(t, c.Close())
		require.NoError(t, s.cmd.Process.Signal(syscall.SIGCONT))
		useService(t, d, dial(t, d, s.name))
	})
}

// Dial can wait for a service that has not begun.
func TestDialWaits(t *testing.T) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			name := socketPath(t)
			_, err := worker.Dial(t.Context(), name, d, worker.WithReconnect(worker.Reconnect{}))
			require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err), "%v", err)
			_, err = worker.Dial(t.Context(), name, d, worker.WithReconnect(worker.Reconnect{Wait: true, Delay: time.Hour, MaxDelay: time.Hour}), worker.WithStartTimeout(2*time.Second))
			require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err), "%v", err)
			var timeout *ipc.TimeoutError
			require.ErrorAs(t, err, &timeout)
			dialled := make(chan error)
			go func() {
				c, err := worker.Dial(t.Context(), name, d, worker.WithReconnect(worker.Reconnect{Wait: true, Delay: time.Millisecond}))
				if err == nil {
					_, err = add.Call(t.Context(), c, pair{1, 1})
					c.Close()
				}
				dialled <- err
			}()
			serveHere(t, d, name, drivers.ListenConfig{})
			require.NoError(t, <-dialled)
		})
	}
}

// Options that are about something else are errors.
func TestServiceOptions(t *testing.T) {
	for _, opt := range []worker.Option{
		worker.WithData(1), worker.WithRestart(worker.Restart{}), worker.WithResume(1), worker.WithMaxMemory(1 << 30),
		worker.WithHeartbeat(1, 1), worker.WithHostTimeout(1),
	} {
		_, err := worker.Dial(t.Context(), "nothing", shm.Driver{}, opt)
		require.ErrorContains(t, err, "is for a worker that this process starts")
	}
	_, err := worker.Spawn(t.Context(), worker.Self("test"), shm.Driver{}, worker.WithReconnect(worker.Reconnect{}))
	require.ErrorContains(t, err, "for Dial")
	l, err := shm.Listen(socketPath(t))
	require.NoError(t, err)
	err = worker.NewServer().ServeListener(t.Context(), l, worker.WithCodec(ipc.JSON), worker.WithRetry(2), worker.WithData(1))
	for _, option := range []string{"WithCodec", "WithRetry", "WithData"} {
		require.ErrorContains(t, err, option)
	}
	require.Panics(t, func() { worker.WithReconnect(worker.Reconnect{Delay: -1}) })
	_, err = worker.Dial(t.Context(), "x", nil)
	require.ErrorContains(t, err, "nil driver")
}
