//go:build unix

package natsipc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// serveEnv has the URL of NATS in a process that serves.
const serveEnv = "TANDEM_TEST_NATS_SERVE"

// callEnv has the URL of NATS in a process that calls.
const callEnv = "TANDEM_TEST_NATS_CALL"

func TestMain(m *testing.M) {
	worker.Main("test", func() error { // a worker behind Forward
		s, _ := newServer()
		return s.Serve(context.Background())
	})
	if url := os.Getenv(serveEnv); url != "" {
		nc, err := nats.Connect(url, nats.Timeout(time.Minute))
		if err == nil {
			s, _ := newServer()
			err = natsipc.Serve(context.Background(), nc, s, service)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if url := os.Getenv(callEnv); url != "" {
		nc, err := nats.Connect(url, nats.Timeout(time.Minute))
		if err == nil {
			c := natsipc.Caller(nc, "test", natsipc.WithHeartbeat(time.Second))
			_, err = block.Call(context.Background(), c, "x", ipc.WithTimeout(0))
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// elsewhere runs a process of its own, which serves or calls: see TestMain.
func elsewhere(t *testing.T, env, url string) *os.Process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), env+"="+url)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process
}

// A server that is killed or stopped in the middle of a call ends the call, and one that lives does not.
func TestServerDies(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			srv := natstest.Start(t, nil)
			nc := natstest.Connect(t, srv)
			p := elsewhere(t, serveEnv, srv.ClientURL())
			awaitService(t, nc)
			c := natsipc.Caller(nc, "test", natsipc.WithHeartbeat(time.Second))
			defer c.Close()
			beats := make(chan *nats.Msg, 1000)
			sub, err := nc.ChanSubscribe("_INBOX.>", beats)
			require.NoError(t, err)
			defer func() { _ = sub.Unsubscribe() }()
			failed := make(chan error, 1)
			go func() {
				_, err := block.Call(context.Background(), c, "x", ipc.WithTimeout(0))
				failed <- err
			}()
			for range 5 { // more than may be missed
				within(t, beats)
			}
			require.Empty(t, failed, "a server that lives is taken for dead")
			require.NoError(t, p.Signal(sig))
			err = within(t, failed)
			require.ErrorIs(t, err, ipc.ErrPeerGone)
			require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
		})
	}
}

// A request whose server dies in the middle is sent again if its method is idempotent and it has attempts left, to
// whoever serves then, and otherwise not.
func TestSentAgain(t *testing.T) {
	for name, test := range map[string]struct {
		call     func(ctx context.Context, c ipc.Caller) (int, error)
		option   natsipc.Option
		attempts []int
	}{
		"option": {func(ctx context.Context, c ipc.Caller) (int, error) { return again.Call(ctx, c, "") }, natsipc.WithRetry(3), []int{1, 2}},
		"of the call": {func(ctx context.Context, c ipc.Caller) (int, error) {
			return again.Call(ctx, c, "", ipc.WithAttempts(2))
		}, natsipc.WithRetry(1), []int{1, 2}},
		"none left": {func(ctx context.Context, c ipc.Caller) (int, error) {
			return again.Call(ctx, c, "", ipc.WithAttempts(1))
		}, natsipc.WithRetry(3), []int{1}},
		"not idempotent":  {func(ctx context.Context, c ipc.Caller) (int, error) { return hold.Call(ctx, c, "") }, natsipc.WithRetry(3), []int{1}},
		"nothing allowed": {func(ctx context.Context, c ipc.Caller) (int, error) { return again.Call(ctx, c, "") }, natsipc.WithRetry(1), []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := natstest.Start(t, nil)
			nc := natstest.Connect(t, srv)
			first := elsewhere(t, serveEnv, srv.ClientURL())
			awaitService(t, nc)
			var mu sync.Mutex
			var attempts []int
			c := natsipc.Caller(nc, "test", natsipc.WithHeartbeat(time.Second), test.option, natsipc.WithInterceptors(ipc.Interceptor{
				Attempt: func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
					if call.Method.Name != holding.Info().Name {
						mu.Lock()
						attempts = append(attempts, call.Attempt)
						mu.Unlock()
					}
					return next(ctx)
				}}))
			defer c.Close()
			type outcome struct {
				pid int
				err error
			}
			ended := make(chan outcome, 1)
			go func() {
				pid, err := test.call(context.Background(), c)
				ended <- outcome{pid, err}
			}()
			awaitHolding(t, c, 1)
			s, b := newServer()
			close(b.gate)
			serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
			require.NoError(t, first.Kill())
			o := within(t, ended)
			require.Equal(t, test.attempts, attempts)
			require.EqualValues(t, len(test.attempts)-1, b.holding.Load())
			if len(test.attempts) == 1 {
				require.ErrorIs(t, o.err, ipc.ErrPeerGone)
				return
			}
			require.NoError(t, o.err)
			require.Equal(t, os.Getpid(), o.pid)
		})
	}
}

// The handler's context ends when the process that calls was killed.
func TestCallerDies(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc := natstest.Connect(t, srv)
	s, b := newServer()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	p := elsewhere(t, callEnv, srv.ClientURL())
	within(t, b.began)
	require.NoError(t, p.Kill())
	require.ErrorIs(t, within(t, b.ended), context.Canceled)
}

// A worker behind Forward that is killed ends its call, unless its pool may send it again.
func TestPoolWorkerDies(t *testing.T) {
	t.Run("shm", func(t *testing.T) { testPoolWorkerDies(t, shm.Driver{}) })
	t.Run("socket", func(t *testing.T) { testPoolWorkerDies(t, socket.Driver{}) })
}

func testPoolWorkerDies[C drivers.Channel](t *testing.T, driver drivers.Driver[C]) {
	p, err := pool.New(t.Context(), 1, worker.Self("test"), driver, pool.WithConcurrency(4), pool.WithWorkers(worker.WithRetry(2)))
	if errors.Is(err, ipc.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer p.Close()
	nc := natstest.Connect(t, natstest.Start(t, nil))
	serve(t, nc, func(ctx context.Context) error { return natsipc.Forward(ctx, nc, p, service) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	kill := func() {
		id, err := pid.Call(t.Context(), c, 0)
		require.NoError(t, err)
		process, err := os.FindProcess(id)
		require.NoError(t, err)
		require.NoError(t, process.Kill())
	}
	failed := make(chan error, 1)
	go func() {
		_, err := hold.Call(context.Background(), c, "")
		failed <- err
	}()
	awaitHolding(t, c, 1)
	kill()
	err = within(t, failed)
	require.ErrorIs(t, err, ipc.ErrPeerGone)
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))

	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := again.Call(ctx, c, "")
		failed <- err
	}()
	awaitHolding(t, c, 1)
	old, err := pid.Call(t.Context(), c, 0)
	require.NoError(t, err)
	kill()
	require.Eventually(t, func() bool {
		id, err := pid.Call(t.Context(), c, 0)
		return err == nil && id != old
	}, 30*time.Second, time.Millisecond)
	awaitHolding(t, c, 1)
	require.Empty(t, failed)
	cancel()
	require.ErrorIs(t, within(t, failed), context.Canceled)
}
