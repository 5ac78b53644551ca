package natsipc_test

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// restarting is a NATS server that can be ended and started again under the same address.
type restarting struct {
	t    testing.TB
	srv  *server.Server
	port int
}

func (r *restarting) start() {
	r.srv = natstest.Start(r.t, func(o *server.Options) {
		o.JetStream = false
		if r.port != 0 {
			o.Port = r.port
		}
	})
	r.port = r.srv.Addr().(*net.TCPAddr).Port
}

func (r *restarting) stop() {
	r.srv.Shutdown()
	r.srv.WaitForShutdown()
}

// connect returns a connection that comes back as often as needed.
func (r *restarting) connect() *nats.Conn {
	return natstest.Connect(r.t, r.srv, nats.MaxReconnects(-1), nats.ReconnectWait(5*time.Millisecond), nats.ReconnectJitter(0, 0))
}

type number struct {
	n   int
	err error
}

// A call that is pending when the connection goes down goes on when it is back; one that is begun meanwhile waits, as
// long as its timeout and its context allow.
func TestConnectionDownAndBack(t *testing.T) {
	r := &restarting{t: t}
	r.start()
	here, there := r.connect(), r.connect()
	s, b := newServer()
	serve(t, here, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	c := natsipc.Caller(here, "test", natsipc.WithHeartbeat(10*time.Second)) // both sides have the time to come back
	defer c.Close()
	pending, begun := make(chan number, 1), make(chan number, 1)
	go func() {
		n, err := hold.Call(context.Background(), c, "")
		pending <- number{n, err}
	}()
	awaitHolding(t, c, 1)
	r.stop()
	require.Eventually(t, func() bool { return !here.IsConnected() && !there.IsConnected() }, 30*time.Second, time.Millisecond)
	var timeout *ipc.TimeoutError
	_, err := double.Call(t.Context(), c, 1, ipc.WithTimeout(10*time.Millisecond))
	require.ErrorAs(t, err, &timeout)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = double.Call(ctx, c, 1)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	go func() {
		n, err := double.Call(context.Background(), c, 21)
		begun <- number{n, err}
	}()
	r.start()
	awaitService(t, here)
	if o := within(t, begun); !errors.Is(o.err, nats.ErrNoResponders) { // the other side may come back later
		require.Equal(t, number{42, nil}, o)
	}
	close(b.gate)
	require.Equal(t, number{os.Getpid(), nil}, within(t, pending))
}

// Close ends calls and openings of streams that wait for the connection.
func TestCloseWhileDisconnected(t *testing.T) {
	r := &restarting{t: t}
	r.start()
	here := r.connect()
	r.stop()
	require.Eventually(t, func() bool { return !here.IsConnected() }, 30*time.Second, time.Millisecond)
	c := natsipc.Caller(here, "test")
	failed := make(chan error, 2)
	go func() {
		_, err := double.Call(context.Background(), c, 1)
		failed <- err
	}()
	go func() {
		_, err := doubles.Open(context.Background(), c)
		failed <- err
	}()
	select {
	case err := <-failed:
		t.Fatal(err)
	case <-time.After(20 * time.Millisecond): // both wait by now, or else find the client closed
	}
	require.NoError(t, c.Close())
	require.ErrorIs(t, within(t, failed), ipc.ErrClosed)
	require.ErrorIs(t, within(t, failed), ipc.ErrClosed)
}

// While the NATS server is restarted under calls, each ends with its own result or an error that says so, and
// then all is as before.
func TestRestartsUnderCalls(t *testing.T) {
	r := &restarting{t: t}
	r.start()
	here, there := r.connect(), r.connect()
	s, _ := newServer()
	serve(t, here, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	c := natsipc.Caller(here, "test", natsipc.WithHeartbeat(50*time.Millisecond))
	defer c.Close()
	var good atomic.Int64
	var over atomic.Bool
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for n := i; !over.Load(); n += 8 {
				got, err := double.Call(context.Background(), c, n)
				if err == nil {
					good.Add(1)
				}
				if err == nil && got != 2*n || err != nil && ipc.CodeOf(err) != ipc.CodeUnavailable {
					t.Errorf("call %d: %d, %v", n, got, err)
				}
			}
		})
	}
	for range 5 {
		r.stop()
		r.start()
		before := good.Load()
		require.Eventually(t, func() bool { return good.Load() > before+100 }, 30*time.Second, time.Millisecond)
	}
	over.Store(true)
	done := make(chan struct{})
	go func() { callers.Wait(); close(done) }()
	within(t, done)
}

// Each side ends what it does when its own connection is closed.
func TestConnectionClosed(t *testing.T) {
	srv := natstest.Start(t, nil)
	here, there := natstest.Connect(t, srv), natstest.Connect(t, srv)
	s, b := newServer()
	served := make(chan error, 1)
	go func() { served <- natsipc.Serve(context.Background(), there, s, service) }()
	awaitService(t, here)
	c := natsipc.Caller(here, "test", natsipc.WithHeartbeat(2*time.Second))
	defer c.Close()
	failed := make(chan error, 1)
	go func() {
		_, err := block.Call(context.Background(), c, "x", ipc.WithTimeout(0))
		failed <- err
	}()
	within(t, b.began)
	here.Close()
	require.ErrorIs(t, within(t, failed), ipc.ErrDisconnected)
	_, err := double.Call(t.Context(), c, 1)
	require.ErrorIs(t, err, ipc.ErrDisconnected)
	there.Close()
	require.ErrorIs(t, within(t, served), ipc.ErrDisconnected)
	require.ErrorIs(t, within(t, b.ended), context.Canceled)
}

// A service that ends answers what its handlers finish within the grace, and tells the callers of the others.
func TestGrace(t *testing.T) {
	for name, finishes := range map[string]bool{"in time": true, "too late": false} {
		t.Run(name, func(t *testing.T) {
			srv := natstest.Start(t, nil)
			here, there := natstest.Connect(t, srv), natstest.Connect(t, srv)
			s, b := newServer()
			svc := service
			if !finishes {
				svc.Grace = time.Millisecond
			}
			ctx, end := context.WithCancel(t.Context())
			defer end()
			served := make(chan error, 1)
			go func() { served <- natsipc.Serve(ctx, there, s, svc) }()
			awaitService(t, here)
			c := natsipc.Caller(here, "test")
			defer c.Close()
			got := make(chan number, 1)
			go func() {
				n, err := hold.Call(context.Background(), c, "")
				got <- number{n, err}
			}()
			awaitHolding(t, c, 1)
			end()
			if !finishes {
				require.ErrorIs(t, within(t, got).err, ipc.ErrPeerGone)
				require.NoError(t, within(t, served))
				return
			}
			require.Eventually(t, func() bool { // it takes no further calls
				_, err := double.Call(t.Context(), c, 1)
				return errors.Is(err, nats.ErrNoResponders)
			}, 30*time.Second, time.Millisecond)
			require.Empty(t, served)
			close(b.gate)
			require.Equal(t, number{os.Getpid(), nil}, within(t, got))
			require.NoError(t, within(t, served))
		})
	}
}

// Interceptors of the caller are around calls and attempts, those of the server around handlers, also for notifications.
func TestInterceptors(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	note := func(what string) ipc.InterceptFunc {
		return func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			mu.Lock()
			seen = append(seen, what+" "+call.Method.Name)
			mu.Unlock()
			return next(ctx)
		}
	}
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s := worker.NewServer(worker.WithServerInterceptors(ipc.Interceptor{Handle: note("handle")}))
	handled := make(chan int, 2)
	worker.Handle(s, double, func(_ context.Context, n int) (int, error) { handled <- n; return 2 * n, nil })
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	c := natsipc.Caller(nc, "test", natsipc.WithInterceptors(ipc.Interceptor{Call: note("call"), Attempt: note("attempt")}))
	defer c.Close()
	want := []string{"call test.double", "attempt test.double", "handle test.double"}
	_, err := double.Call(t.Context(), c, 1)
	require.NoError(t, err)
	require.Equal(t, want, seen)
	seen = nil
	require.NoError(t, double.Notify(t.Context(), c, 1))
	within(t, handled)
	within(t, handled)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, want, seen)
}

// Nothing stays of a service and a caller that have ended: no subscription, no goroutine.
func TestNothingStays(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc := natstest.Connect(t, srv)
	round := func() {
		s, b := newServer()
		stop := serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
		c := natsipc.Caller(nc, "test")
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := block.Call(ctx, c, "x")
			failed <- err
		}()
		within(t, b.began)
		cancel()
		require.ErrorIs(t, within(t, failed), context.Canceled)
		within(t, b.ended)
		require.NoError(t, c.Close())
		require.NoError(t, stop())
	}
	round()
	subscriptions, goroutines := nc.NumSubscriptions(), runtime.NumGoroutine()
	require.Zero(t, subscriptions)
	for range 20 {
		round()
	}
	require.Eventually(t, func() bool { return nc.NumSubscriptions() == 0 && runtime.NumGoroutine() < goroutines+10 }, 30*time.Second, time.Millisecond)
}
