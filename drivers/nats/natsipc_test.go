package natsipc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var errSentinel = errors.New("test sentinel")

func init() { ipc.RegisterError("natsipc_test.sentinel", errSentinel) }

// The contract of the tests.
var (
	echo     = ipc.NewMethod[[]byte, []byte]("test.echo", ipc.WithCodec(ipc.Raw))
	double   = ipc.NewMethod[int, int]("test.double")
	redouble = ipc.NewMethod[int, int]("test.redouble", ipc.WithIdempotent())
	fail     = ipc.NewMethod[string, int]("test.fail")
	block    = ipc.NewMethod[string, string]("test.block") // until its context ends
	unknown  = ipc.NewMethod[int, int]("test.no_handler")
	odd      = ipc.NewMethod[int, int](" ..a*b>%ü\n.")
	meta     = ipc.NewMethod[string, string]("test.meta")                     // sets header and trailer to what came under a key
	hold     = ipc.NewMethod[string, int]("test.hold")                        // until the server's gate opens, or process ends
	again    = ipc.NewMethod[string, int]("test.again", ipc.WithIdempotent()) // the same
	holding  = ipc.NewMethod[int, int]("test.holding")                        // how many of these two have begun
	pid      = ipc.NewMethod[int, int]("test.pid")
)

// blocked is what the handlers of block tell.
type blocked struct {
	began   chan string
	ended   chan error
	gate    chan struct{} // hold and again return when it is closed
	holding atomic.Int64  // how many of these have begun
}

// newServer returns a server with the handlers of the tests.
func newServer() (*worker.Server, *blocked) {
	s, b := worker.NewServer(), &blocked{began: make(chan string, 1000), ended: make(chan error, 1000), gate: make(chan struct{})}
	worker.Handle(s, echo, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	worker.Handle(s, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	worker.Handle(s, redouble, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	worker.Handle(s, odd, func(_ context.Context, n int) (int, error) { return 3 * n, nil })
	worker.Handle(s, fail, func(_ context.Context, how string) (int, error) {
		switch how {
		case "code":
			return 0, &ipc.Error{Code: ipc.CodeNotFound, Message: "no such thing\r\nX: y", Details: map[string]string{"thing": "x"}}
		case "sentinel":
			return 0, fmt.Errorf("in context: %w", errSentinel)
		case "panic":
			panic("out of cheese")
		case "deadline":
			return 0, context.DeadlineExceeded
		case "canceled":
			return 0, context.Canceled
		}
		return 0, errors.New("plain failure")
	})
	worker.Handle(s, block, func(ctx context.Context, name string) (string, error) {
		b.began <- name
		<-ctx.Done()
		b.ended <- ctx.Err()
		return "", ctx.Err()
	})
	handleStreams(s, b)
	wait := func(ctx context.Context, _ string) (int, error) {
		b.holding.Add(1)
		select {
		case <-b.gate:
			return os.Getpid(), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	worker.Handle(s, pid, func(context.Context, int) (int, error) { return os.Getpid(), nil })
	worker.Handle(s, hold, wait)
	worker.Handle(s, again, wait)
	worker.Handle(s, holding, func(context.Context, int) (int, error) { return int(b.holding.Load()), nil })
	worker.Handle(s, meta, func(ctx context.Context, key string) (string, error) {
		value := ipc.MetadataOf(ctx).Get(key)
		if err := errors.Join(ipc.SetHeader(ctx, "head", value), ipc.SetTrailer(ctx, "trail", value, "trail", "2")); err != nil {
			return "", err
		}
		if value == "" {
			return "", ipc.NewError(ipc.CodeNotFound, "none")
		}
		return value, nil
	})
	return s, b
}

// within returns what comes, and fails the test if nothing does.
func within[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(30 * time.Second):
		t.Fatal("it hangs")
	}
	return v
}

// ask sends a request, and returns its answer.
func ask(t testing.TB, nc *nats.Conn, m *nats.Msg) *nats.Msg {
	t.Helper()
	m.Reply = nc.NewInbox()
	answers, err := nc.SubscribeSync(m.Reply)
	require.NoError(t, err)
	defer func() { _ = answers.Unsubscribe() }()
	require.NoError(t, nc.PublishMsg(m))
	for {
		answer, err := answers.NextMsg(time.Minute)
		require.NoError(t, err)
		if answer.Header.Get("Tandem-Answer") != "alive" { // a heartbeat
			return answer
		}
	}
}

// serve runs a service until stop is called, or the test ends, and returns when it can be called.
func serve(t testing.TB, nc *nats.Conn, run func(ctx context.Context) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	over := false
	stop = func() error {
		if over {
			return nil
		}
		over = true
		cancel()
		return within(t, ended)
	}
	t.Cleanup(func() { _ = stop() })
	awaitService(t, nc)
	return stop
}

// awaitHolding returns when a server that answers calls of c has begun n calls of hold and again.
func awaitHolding(t testing.TB, c ipc.Caller, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		got, err := holding.Call(t.Context(), c, 0)
		return err == nil && got >= n
	}, 30*time.Second, time.Millisecond)
}

// awaitService returns when somebody serves.
func awaitService(t testing.TB, nc *nats.Conn) {
	t.Helper()
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	require.Eventually(t, func() bool {
		_, err := unknown.Call(t.Context(), c, 1)
		return ipc.CodeOf(err) == ipc.CodeUnimplemented
	}, 30*time.Second, time.Millisecond)
}

var service = natsipc.Service{Name: "test", Version: "1.2.0", Grace: time.Minute}

// start runs a NATS server and a service, and returns a client.
func start(t testing.TB, opts ...natsipc.Option) (*natsipc.Client, *blocked) {
	t.Helper()
	srv := natstest.Start(t, nil)
	s, b := newServer()
	there, here := natstest.Connect(t, srv), natstest.Connect(t, srv)
	stop := serve(t, here, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	t.Cleanup(func() { require.NoError(t, stop()) })
	c := natsipc.Caller(here, "test", opts...)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c, b
}

// The same method gives over NATS what it gives from this process.
func TestCallsAreAsLocally(t *testing.T) {
	over, _ := start(t)
	s, _ := newServer()
	local, err := worker.Local(s)
	require.NoError(t, err)
	defer local.Close()
	type outcome struct {
		result          any
		header, trailer ipc.Metadata
	}
	calls := map[string]func(ctx context.Context, c ipc.Caller) (any, error){
		"result": func(ctx context.Context, c ipc.Caller) (any, error) { return double.Call(ctx, c, 21) },
		"raw":    func(ctx context.Context, c ipc.Caller) (any, error) { return echo.Call(ctx, c, []byte("\x00\r\n")) },
		"empty": func(ctx context.Context, c ipc.Caller) (any, error) {
			b, err := echo.Call(ctx, c, []byte{})
			return len(b), err
		},
		"odd name": func(ctx context.Context, c ipc.Caller) (any, error) { return odd.Call(ctx, c, 1) },
		"unknown":  func(ctx context.Context, c ipc.Caller) (any, error) { return unknown.Call(ctx, c, 1) },
		"future": func(ctx context.Context, c ipc.Caller) (any, error) {
			f, err := double.Go(ctx, c, 4)
			if err != nil {
				return nil, err
			}
			return f.Wait(ctx)
		},
		"batch": func(ctx context.Context, c ipc.Caller) (n any, err error) {
			return n, ipc.Batch(ctx, c, func(c ipc.Caller) error {
				n, err = double.Call(ctx, c, 4)
				return err
			})
		},
		"timeout": func(ctx context.Context, c ipc.Caller) (any, error) {
			return block.Call(ctx, c, "x", ipc.WithTimeout(10*time.Millisecond))
		},
		"deadline": func(ctx context.Context, c ipc.Caller) (any, error) {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			defer cancel()
			return block.Call(ctx, c, "x")
		},
		"canceled before": func(ctx context.Context, c ipc.Caller) (any, error) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return double.Call(ctx, c, 1)
		},
		"large metadata": func(ctx context.Context, c ipc.Caller) (any, error) {
			return double.Call(ctx, c, 1, ipc.WithMetadata("k", strings.Repeat("x", ipc.MaxMetadata)))
		},
	}
	for _, how := range []string{"plain", "code", "sentinel", "panic", "deadline", "canceled"} {
		calls["fail "+how] = func(ctx context.Context, c ipc.Caller) (any, error) { return fail.Call(ctx, c, how) }
	}
	for _, value := range []string{"", "x", "a b+c%=\r\n\x00ü "} {
		calls[fmt.Sprintf("metadata %q", value)] = func(ctx context.Context, c ipc.Caller) (any, error) {
			var o outcome
			o.result, _ = meta.Call(ctx, c, "k", ipc.WithMetadata("a", "1", "k", value), ipc.WithHeader(&o.header), ipc.WithTrailer(&o.trailer))
			return o, nil
		}
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			want, wantErr := call(t.Context(), local)
			got, err := call(t.Context(), over)
			require.Equal(t, want, got)
			require.Equal(t, ipc.CodeOf(wantErr), ipc.CodeOf(err), "%v, want %v", err, wantErr)
			for _, sentinel := range []error{errSentinel, context.DeadlineExceeded, context.Canceled, ipc.ErrPeerGone} {
				require.Equal(t, errors.Is(wantErr, sentinel), errors.Is(err, sentinel), "%v: %v, want %v", sentinel, err, wantErr)
			}
			var e, wantE *ipc.Error
			require.Equal(t, errors.As(wantErr, &wantE), errors.As(err, &e), "%v, want %v", err, wantErr)
			if wantE != nil {
				require.Equal(t, wantE.Message, e.Message)
				require.Equal(t, wantE.Details, e.Details)
				require.Equal(t, wantE.Remote(), e.Remote())
				require.Equal(t, wantE.Stack == "", e.Stack == "")
			} else if wantErr != nil {
				require.Equal(t, wantErr.Error(), err.Error())
			}
		})
	}
}

// A call that is given up ends its handler, though the caller did not know yet which server has it.
func TestCancelReachesHandler(t *testing.T) {
	c, b := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := block.Call(ctx, c, "x")
		failed <- err
	}()
	within(t, b.began)
	cancel()
	require.ErrorIs(t, within(t, failed), context.Canceled)
	require.ErrorIs(t, within(t, b.ended), context.Canceled)
}

// If nobody serves, a call fails, and not because its time is over.
func TestNobodyServes(t *testing.T) {
	c := natsipc.Caller(natstest.Connect(t, natstest.Start(t, nil)), "test", natsipc.WithCallTimeout(0))
	defer c.Close()
	_, err := double.Call(t.Context(), c, 1)
	require.ErrorIs(t, err, nats.ErrNoResponders)
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(double.Notify(t.Context(), c, 1)))
}

// Close ends what is pending.
func TestClientClose(t *testing.T) {
	c, b := start(t)
	failed := make(chan error, 1)
	go func() {
		_, err := block.Call(context.Background(), c, "x")
		failed <- err
	}()
	within(t, b.began)
	require.NoError(t, c.Close())
	require.ErrorIs(t, within(t, failed), ipc.ErrClosed)
	_, err := double.Call(t.Context(), c, 1)
	require.ErrorIs(t, err, ipc.ErrClosed)
}
