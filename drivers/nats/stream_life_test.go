//go:build unix

package natsipc_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
)

// openEnv has the URL of NATS in a process that opens a stream, and waits to be killed.
const openEnv = "TANDEM_TEST_NATS_OPEN"

func init() {
	url := os.Getenv(openEnv)
	if url == "" {
		return
	}
	nc, err := nats.Connect(url, nats.Timeout(time.Minute))
	if err == nil {
		var st *ipc.BidiStreamCall[[]byte, []byte]
		if st, err = stuck.Open(context.Background(), natsipc.Caller(nc, "test", natsipc.WithHeartbeat(2*time.Second))); err == nil {
			_, err = st.Receive(context.Background())
		}
		for err == nil {
			err = st.Send(context.Background(), make([]byte, 1000)) // until the window is full
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// A server that is killed or stopped in the middle of streams ends them, whatever they wait for. What it had sent arrives.
func TestStreamServerDies(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			srv := natstest.Start(t, nil)
			nc := natstest.Connect(t, srv)
			p := elsewhere(t, serveEnv, srv.ClientURL())
			awaitService(t, nc)
			c := natsipc.Caller(nc, "test", natsipc.WithHeartbeat(2*time.Second))
			defer c.Close()
			quiet, err := stuck.Open(t.Context(), c)
			require.NoError(t, err)
			busy, err := stuck.Open(t.Context(), c)
			require.NoError(t, err)
			flood, err := outflow.Open(t.Context(), c, make([]byte, 1000))
			require.NoError(t, err)
			for _, st := range []interface {
				Receive(context.Context) ([]byte, error)
			}{quiet, busy, flood} {
				_, err := st.Receive(t.Context())
				require.NoError(t, err)
			}
			failed := make(chan error, 3)
			go func() {
				_, err := quiet.Receive(context.Background())
				failed <- err
			}()
			go func() {
				err := error(nil)
				for err == nil {
					err = busy.Send(context.Background(), make([]byte, 1000)) // it waits for the window soon
				}
				failed <- err
			}()
			go func() {
				err := error(nil)
				for err == nil {
					_, err = flood.Receive(context.Background())
				}
				failed <- err
			}()
			require.NoError(t, p.Signal(sig))
			for range 3 {
				err := within(t, failed)
				require.ErrorIs(t, err, ipc.ErrPeerGone)
				require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
			}
			require.Eventually(t, func() bool { return c.Streams() == 0 }, 30*time.Second, time.Millisecond, "nothing is left")
		})
	}
}

// The handler of a caller that is killed or stopped ends.
func TestStreamCallerDies(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			srv := natstest.Start(t, nil)
			nc := natstest.Connect(t, srv)
			s, b := newServer()
			one := service
			one.Streams = 1
			serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, one) })
			self, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), openEnv+"="+srv.ClientURL())
			require.NoError(t, cmd.Start())
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			within(t, b.began)
			require.NoError(t, cmd.Process.Signal(sig))
			require.ErrorIs(t, within(t, b.ended), context.Canceled)
			c := natsipc.Caller(nc, "test")
			defer c.Close()
			require.Eventually(t, func() bool { // and has left its place
				_, err := collect(numbers.Stream(t.Context(), c, counting{N: 1}))
				return err == nil
			}, 30*time.Second, time.Millisecond)
		})
	}
}

// freePort returns a port on which a server of the test can start again.
func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// A NATS server that is restarted in the middle of streams ends them with an error or lets them go on. No item
// is lost, doubled or out of order, and a stream that has lost some does not end as if it had all.
func TestStreamServerOfNATSRestarts(t *testing.T) {
	port := freePort(t)
	run := func() *server.Server {
		return natstest.Start(t, func(o *server.Options) { o.Port, o.JetStream = port, false })
	}
	srv := run()
	again := []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(5 * time.Millisecond), nats.ReconnectJitter(0, 0)}
	nc, there := natstest.Connect(t, srv, again...), natstest.Connect(t, srv, again...)
	s, _ := newServer()
	stop := serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	restarted, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for range restarted {
			srv.Shutdown()
			srv.WaitForShutdown()
			srv = run()
		}
	}()
	outcomes := map[bool]int{}
	for range 6 {
		st, err := echoes.Open(t.Context(), c)
		if err != nil {
			require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err), "%v", err)
			continue
		}
		enough := make(chan struct{})
		sent := make(chan uint64, 1)
		go func() {
			n := uint64(0)
			defer func() { sent <- n }()
			for ; ; n++ {
				select {
				case <-enough:
					_ = st.CloseSend(context.Background())
					return
				default:
				}
				if st.Send(context.Background(), binary.LittleEndian.AppendUint64(make([]byte, 500), n)) != nil {
					return
				}
			}
		}()
		var n uint64
		for err == nil {
			var item []byte
			if item, err = st.Receive(t.Context()); err == nil {
				require.Equal(t, n, binary.LittleEndian.Uint64(item[500:]))
				if n++; n == 2000 {
					restarted <- struct{}{}
				}
				if n == 30_000 {
					close(enough)
				}
			}
		}
		count := within(t, sent)
		if lost := ipc.CodeOf(err); lost == ipc.CodeUnavailable {
			outcomes[false]++
		} else {
			require.Equal(t, "EOF", err.Error(), strconv.FormatUint(n, 10))
			require.Equal(t, count, n, "all that was sent has come back")
			outcomes[true]++
		}
		st.Close()
		require.Eventually(t, nc.IsConnected, 30*time.Second, time.Millisecond)
		require.Eventually(t, there.IsConnected, 30*time.Second, time.Millisecond)
	}
	close(restarted)
	<-over
	t.Logf("streams that ended with all: %d, with an error: %d", outcomes[true], outcomes[false])
	require.Eventually(t, func() bool { // it works again
		got, err := collect(numbers.Stream(t.Context(), c, counting{N: 10}))
		return err == nil && len(got) == 10
	}, 30*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return c.Streams() == 0 }, 30*time.Second, time.Millisecond, "nothing is left")
	require.NoError(t, stop(), "while there is a server of NATS")
}
