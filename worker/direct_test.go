//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var (
	directRaw  = ipc.NewMethod[[]byte, []byte]("direct.raw", ipc.WithCodec(ipc.Raw))
	directStop = ipc.NewMethod[int, int]("direct.stop")
	directGive = ipc.NewMethod[int, ipc.Buffer]("direct.give")
	directMeta = ipc.NewMethod[int, []byte]("direct.meta", ipc.WithCodec(ipc.CBOR))
)

// direct returns a client of a server with the handlers that handle registers.
func direct(t *testing.T, handle func(*worker.Server), opts ...worker.Option) *worker.LocalClient {
	t.Helper()
	s := worker.NewServer(worker.WithServerLogger(slog.New(slog.DiscardHandler)))
	handle(s)
	c, err := worker.Direct(s, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// A call whose context or timeout ends, or whose client is closed, ends the context of its handler, with the
// reason, and returns when the handler has returned, not before.
func TestDirectReturnsWithItsHandler(t *testing.T) {
	type ender func(ctx context.Context, c *worker.LocalClient) (of context.Context, end, free func())
	nothing := func() {}
	for name, test := range map[string]struct {
		timeout time.Duration
		ender   ender
		reason  error // of the handler's context
		is      func(error) bool
	}{
		"canceled": {0, func(ctx context.Context, _ *worker.LocalClient) (context.Context, func(), func()) {
			ctx, cancel := context.WithCancel(ctx)
			return ctx, cancel, nothing
		}, context.Canceled, func(err error) bool { return err == context.Canceled }},
		"deadline": {0, func(ctx context.Context, _ *worker.LocalClient) (context.Context, func(), func()) {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			return ctx, nothing, cancel
		}, context.DeadlineExceeded, func(err error) bool { return err == context.DeadlineExceeded }},
		"timeout": {10 * time.Millisecond, func(ctx context.Context, _ *worker.LocalClient) (context.Context, func(), func()) {
			return ctx, nothing, nothing
		}, context.DeadlineExceeded, func(err error) bool {
			var e *ipc.TimeoutError
			return errors.As(err, &e) && e.After == 10*time.Millisecond
		}},
		"closed": {0, func(ctx context.Context, c *worker.LocalClient) (context.Context, func(), func()) {
			return ctx, func() { _ = c.Close() }, nothing
		}, context.Canceled, func(err error) bool { return errors.Is(err, context.Canceled) }},
	} {
		for _, asks := range []string{"Done", "Err", "a derived context"} {
			t.Run(name+" "+asks, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { // where no time passes but what is waited for
					testDirectReturns(t, test.timeout, test.ender, asks, test.reason, test.is)
				})
			})
		}
	}
}

func testDirectReturns(t *testing.T, timeout time.Duration, ender func(context.Context, *worker.LocalClient) (context.Context, func(), func()), asks string, reason error, is func(error) bool) {
	began, ended := make(chan struct{}), make(chan error, 1)
	var over atomic.Bool
	c := direct(t, func(s *worker.Server) {
		worker.Handle(s, directStop, func(ctx context.Context, _ int) (int, error) {
			close(began)
			switch asks {
			case "Done":
				<-ctx.Done()
			case "Err":
				for ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
			default:
				own, cancel := context.WithCancel(ctx)
				defer cancel()
				<-own.Done()
			}
			ended <- ctx.Err()
			time.Sleep(20 * time.Millisecond)
			over.Store(true)
			return 0, ctx.Err()
		})
	}, worker.WithGrace(time.Millisecond))
	ctx, end, free := ender(t.Context(), c)
	defer free()
	failed := make(chan error, 1)
	go func() {
		_, err := directStop.Call(ctx, c, 1, ipc.WithTimeout(timeout))
		if !over.Load() {
			err = fmt.Errorf("the handler had not returned: %w", err)
		}
		failed <- err
	}()
	<-began
	end()
	require.Equal(t, reason, within(t, ended))
	err := within(t, failed)
	require.True(t, is(err), "%v", err)
}

// Close waits a moment for handlers that heed their contexts, when it has ended these.
func TestLocalCloseWaitsForHandlers(t *testing.T) {
	eachInProcess(t, func(t *testing.T, connect connectLocal) {
		waits := func() bool {
			began := make(chan struct{})
			var over atomic.Bool
			s := worker.NewServer(worker.WithServerLogger(slog.New(slog.DiscardHandler)))
			worker.Handle(s, directStop, func(ctx context.Context, n int) (int, error) {
				close(began)
				<-ctx.Done()
				time.Sleep(50 * time.Millisecond)
				over.Store(true)
				return n, nil
			})
			c, err := connect(s, worker.WithGrace(time.Millisecond))
			require.NoError(t, err)
			var call sync.WaitGroup
			call.Go(func() { _, _ = directStop.Call(context.Background(), c, 1) })
			defer call.Wait()
			<-began
			require.NoError(t, c.Close())
			return over.Load()
		}
		for range 10 { // on a busy machine the moment may be too short
			if waits() {
				return
			}
		}
		t.Fatal("it does not wait")
	})
}

// countedContext counts what waits for its end.
type countedContext struct {
	context.Context
	done    chan struct{}
	waiting atomic.Int32
}

func (c *countedContext) Done() <-chan struct{} { return c.done }

// AfterFunc is called by package context.
func (c *countedContext) AfterFunc(func()) (stop func() bool) {
	c.waiting.Add(1)
	var once sync.Once
	return func() bool { once.Do(func() { c.waiting.Add(-1) }); return true }
}

// Nothing of a call is left at the context of its caller.
func TestDirectLeavesTheContext(t *testing.T) {
	ctx := &countedContext{Context: t.Context(), done: make(chan struct{})}
	var most atomic.Int32
	c := direct(t, func(s *worker.Server) {
		worker.Handle(s, directStop, func(own context.Context, n int) (int, error) {
			if n%2 == 0 {
				_ = own.Done()
			} else {
				own, cancel := context.WithCancel(own)
				defer cancel()
				_ = own.Done()
			}
			most.Store(max(most.Load(), ctx.waiting.Load()))
			return n, nil
		})
	})
	for n := range 10 {
		_, err := directStop.Call(ctx, c, n)
		require.NoError(t, err)
		require.Zero(t, ctx.waiting.Load())
	}
	require.EqualValues(t, 1, most.Load())
}

// A call whose context has ended does not run its handler, and one whose handler has returned keeps its
// result whatever ends then.
func TestDirectContextHasEnded(t *testing.T) {
	runs := 0
	var kept context.Context
	c := direct(t, func(s *worker.Server) {
		worker.Handle(s, directStop, func(ctx context.Context, n int) (int, error) {
			runs++
			kept = ctx
			if n > 0 {
				_ = ctx.Done()
			}
			return n, ctx.Err()
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	for n := range 2 { // which makes the context a real one, or not
		got, err := directStop.Call(ctx, c, n)
		require.NoError(t, err)
		require.Equal(t, n, got)
		require.Equal(t, context.Canceled, kept.Err(), "the handler has returned")
	}
	cancel()
	_, err := directStop.Call(ctx, c, 1)
	require.Equal(t, context.Canceled, err)
	require.Equal(t, 2, runs)
}

// A handler that ends its goroutine ends that of its caller, and the client goes on.
func TestDirectGoexit(t *testing.T) {
	c := direct(t, func(s *worker.Server) {
		worker.Handle(s, directStop, func(_ context.Context, n int) (int, error) {
			if n == 0 {
				runtime.Goexit()
			}
			return n, nil
		})
	}, worker.WithGrace(time.Hour))
	exited := make(chan bool, 1)
	go func() {
		returned := false
		defer func() { exited <- !returned }()
		_, _ = directStop.Call(t.Context(), c, 0)
		returned = true
	}()
	require.True(t, within(t, exited))
	n, err := directStop.Call(t.Context(), c, 7)
	require.NoError(t, err)
	require.Equal(t, 7, n)
	require.Zero(t, c.LateResponses())
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = directStop.Call(ended, c, 7)
	require.Equal(t, context.Canceled, err)
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }() // which waits for handlers that run
	require.NoError(t, within(t, closed))
}

// The request stays the caller's unless that gives it away, and the response is the caller's alone.
func TestDirectMemory(t *testing.T) {
	shared := []byte("shared by all responses")
	var got []byte
	handle := func(s *worker.Server) {
		worker.Handle(s, directRaw, func(_ context.Context, b []byte) ([]byte, error) {
			got = b
			if string(b) == "shared" {
				return shared, nil
			}
			return b, nil
		})
	}
	twice := ipc.Interceptor{Call: func(ctx context.Context, _ *ipc.Call, next func(context.Context) error) error {
		return errors.Join(next(ctx), next(ctx))
	}}
	plain := ipc.Caller(direct(t, handle))
	for _, c := range []ipc.Caller{plain, direct(t, handle, worker.WithInterceptors(twice)), worker.Intercept(plain, twice)} {
		for _, owned := range []bool{false, true} {
			for _, what := range []string{"shared", "echo"} {
				request := []byte(what)
				inv := &ipc.Invocation{Method: directRaw.Info(), Owned: owned}
				memory := make([]byte, 100)
				response, err := c.Invoke(t.Context(), inv, request, memory)
				require.NoError(t, err)
				require.Equal(t, what == "shared", string(response) == string(shared))
				if c == plain {
					require.Same(t, &memory[0], &response[0], "the memory is used")
				}
				clear(response)
				require.Equal(t, "shared by all responses", string(shared))
				require.Equal(t, what, string(request))
				require.Equal(t, owned && c == plain, &got[0] == &request[0], "whose the request is: interceptors may make the call twice")
				clear(got)
				require.Equal(t, !owned || c != plain, string(request) == what)
			}
		}
	}
}

// What cannot run in the caller's goroutine goes the other way: requests with buffers, handlers of which only so
// many run at once, notifications. Responses with buffers can.
func TestDirectGoesTheOtherWay(t *testing.T) {
	var running, most atomic.Int32
	notified := make(chan int, 100)
	c := direct(t, func(s *worker.Server) {
		worker.Handle(s, directStop, func(_ context.Context, n int) (int, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			runtime.Gosched()
			return n, nil
		}, worker.WithConcurrency(1))
		worker.Handle(s, double, func(_ context.Context, n int) (int, error) { notified <- n; return 0, nil })
		worker.Handle(s, directGive, func(ctx context.Context, n int) (ipc.Buffer, error) {
			b, err := worker.Alloc(ctx, 100)
			if err == nil {
				copy(b.Bytes(), fmt.Sprint("buffer ", n))
			}
			if n == 0 {
				return b, errors.Join(err, errSentinel)
			}
			return b, err
		})
	})
	var all sync.WaitGroup
	for n := range 50 {
		all.Go(func() {
			got, err := directStop.Call(t.Context(), c, n)
			if err != nil || got != n {
				t.Errorf("%d: %d, %v", n, got, err)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, most.Load())
	for n := range 3 {
		require.NoError(t, double.Notify(t.Context(), c, n))
	}
	for n := range 3 {
		require.Equal(t, n, within(t, notified))
	}
	b, err := directGive.Call(t.Context(), c, 1)
	require.NoError(t, err)
	require.Equal(t, "buffer 1", string(b.Bytes()[:8]))
	require.Equal(t, 100, b.Len())
	b.Release()
	_, err = directGive.Call(t.Context(), c, 0)
	require.ErrorIs(t, err, errSentinel)
}

// Direct takes and refuses the same sizes as Local does: of requests, of responses, of errors, and with
// metadata.
func TestDirectSizes(t *testing.T) {
	s := worker.NewServer()
	worker.Handle(s, directRaw, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	worker.Handle(s, directStop, func(_ context.Context, n int) (int, error) { return 0, errors.New(string(make([]byte, n))) })
	worker.Handle(s, directMeta, func(ctx context.Context, n int) ([]byte, error) {
		if err := ipc.SetTrailer(ctx, "key", string(make([]byte, 1000))); err != nil {
			return nil, err
		}
		return make([]byte, n), nil
	})
	var clients []*worker.LocalClient
	for _, connect := range []connectLocal{worker.Local, worker.Direct} {
		c, err := connect(s, worker.WithMaxMessage(8<<10))
		require.NoError(t, err)
		defer c.Close()
		clients = append(clients, c)
	}
	failures := 0
	same := func(what string, call func(c ipc.Caller) (int, error)) {
		t.Helper()
		want, wantErr := call(clients[0])
		got, err := call(clients[1])
		require.Equal(t, want, got, what)
		require.Equal(t, ipc.CodeOf(wantErr), ipc.CodeOf(err), "%s: %v, want %v", what, err, wantErr)
		var size *ipc.SizeError
		require.Equal(t, errors.As(wantErr, &size), errors.As(err, &size), "%s: %v, want %v", what, err, wantErr)
		if err != nil {
			failures++
		}
	}
	for n := 8<<10 - 200; n < 8<<10+100; n++ {
		same(fmt.Sprint("request of ", n), func(c ipc.Caller) (int, error) {
			b, err := directRaw.Call(t.Context(), c, make([]byte, n))
			return len(b), err
		})
		same(fmt.Sprint("error of ", n), func(c ipc.Caller) (int, error) { return directStop.Call(t.Context(), c, n) })
		for _, less := range []int{0, 1000} {
			same(fmt.Sprint("response with metadata, of ", n-less), func(c ipc.Caller) (int, error) {
				var trailer ipc.Metadata
				b, err := directMeta.Call(t.Context(), c, n-less, ipc.WithTrailer(&trailer))
				return len(b) + len(trailer), err
			})
			same(fmt.Sprint("request with metadata, of ", n-less), func(c ipc.Caller) (int, error) {
				b, err := directRaw.Call(t.Context(), c, make([]byte, n-less), ipc.WithMetadata("key", string(make([]byte, 1000))))
				return len(b), err
			})
		}
	}
	require.Greater(t, failures, 500)
	require.Less(t, failures, 1700)
}

// Close does not wait for a handler that does not heed its context, beyond the grace.
func TestDirectCloseWithAStuckHandler(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	c := direct(t, func(s *worker.Server) {
		worker.Handle(s, directStop, func(_ context.Context, n int) (int, error) {
			close(began)
			<-release
			return n, nil
		})
	}, worker.WithGrace(time.Millisecond))
	got := make(chan int, 1)
	go func() {
		n, err := directStop.Call(context.Background(), c, 7)
		if err != nil {
			n = -1
		}
		got <- n
	}()
	<-began
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	require.NoError(t, within(t, closed))
	_, err := directStop.Call(t.Context(), c, 8)
	require.ErrorIs(t, err, ipc.ErrClosed)
	close(release)
	require.Equal(t, 7, within(t, got), "the caller gets what its handler returns")
}
