//go:build unix

package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// connectLocal is worker.Local or worker.Direct.
type connectLocal = func(*worker.Server, ...worker.Option) (*worker.LocalClient, error)

// inProcess are the ways to call the handlers of a server in the same process.
var inProcess = map[string]connectLocal{"local": worker.Local, "direct": worker.Direct}

// eachInProcess runs a test for each of them.
func eachInProcess(t *testing.T, test func(t *testing.T, connect connectLocal)) {
	for name, connect := range inProcess {
		t.Run(name, func(t *testing.T) { test(t, connect) })
	}
}

// localWith returns a client of a server of this process that has the handlers of the test worker.
func localWith(t testing.TB, connect connectLocal, opts ...worker.Option) *worker.LocalClient {
	t.Helper()
	s := worker.NewServer()
	handleTest(s)
	c, err := connect(s, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// A call of this process's own handlers ends as the same call of another process's does.
func TestLocalIsAsAnyOtherClient(t *testing.T) {
	calls := map[string]func(ctx context.Context, c ipc.Caller) (any, error){
		"result":   func(ctx context.Context, c ipc.Caller) (any, error) { return add.Call(ctx, c, pair{1, 2}) },
		"raw":      func(ctx context.Context, c ipc.Caller) (any, error) { return rawEcho.Call(ctx, c, []byte("x")) },
		"in place": func(ctx context.Context, c ipc.Caller) (any, error) { return inPlace.Call(ctx, c, []byte("x")) },
		"fixed":    func(ctx context.Context, c ipc.Caller) (any, error) { return fixed.Call(ctx, c, quote{1, 2}) },
		"large":    func(ctx context.Context, c ipc.Caller) (any, error) { return rawEcho.Call(ctx, c, make([]byte, 5<<20)) },
		"too large": func(ctx context.Context, c ipc.Caller) (any, error) {
			return rawEcho.Call(ctx, c, make([]byte, 65<<20))
		},
		"unknown":     func(ctx context.Context, c ipc.Caller) (any, error) { return unknown.Call(ctx, c, 1) },
		"no callback": func(ctx context.Context, c ipc.Caller) (any, error) { return callback.Call(ctx, c, 1) },
		"timeout": func(ctx context.Context, c ipc.Caller) (any, error) {
			return block.Call(ctx, c, "x", ipc.WithTimeout(10*time.Millisecond))
		},
		"deadline": func(ctx context.Context, c ipc.Caller) (any, error) {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			defer cancel()
			return block.Call(ctx, c, "x")
		},
	}
	for _, how := range []string{"", "plain", "code", "sentinel", "panic", "nil", "bad error", "goexit", "exit"} {
		calls["fail "+how] = func(ctx context.Context, c ipc.Caller) (any, error) { return fail.Call(ctx, c, how) }
	}
	there, err := worker.Spawn(t.Context(), worker.Self("test"), socket.Driver{})
	require.NoError(t, err)
	defer there.Close()
	eachInProcess(t, func(t *testing.T, connect connectLocal) {
		here := localWith(t, connect)
		for name, call := range calls {
			if name == "fail goexit" && strings.HasSuffix(t.Name(), "/direct") {
				continue // it would end this goroutine: see TestDirectGoexit
			}
			t.Run(name, func(t *testing.T) { sameCall(t, call, there, here) })
		}
	})
}

// sameCall makes a call with both, and requires the same outcome.
func sameCall(t *testing.T, call func(context.Context, ipc.Caller) (any, error), there, here ipc.Caller) {
	want, wantErr := call(t.Context(), there)
	got, err := call(t.Context(), here)
	require.Equal(t, want, got)
	require.Equal(t, ipc.CodeOf(wantErr), ipc.CodeOf(err), "%v, want %v", err, wantErr)
	if wantErr == nil {
		require.NoError(t, err)
		return
	}
	for _, sentinel := range []error{errSentinel, context.DeadlineExceeded, context.Canceled, ipc.ErrPeerGone} {
		require.Equal(t, errors.Is(wantErr, sentinel), errors.Is(err, sentinel), "%v: %v, want %v", sentinel, err, wantErr)
	}
	var e, wantE *ipc.Error
	require.Equal(t, errors.As(wantErr, &wantE), errors.As(err, &e))
	if wantE != nil {
		require.Equal(t, wantE.Message, e.Message)
		require.Equal(t, wantE.Details, e.Details)
		require.Equal(t, wantE.Remote(), e.Remote())
		require.Equal(t, wantE.Stack == "", e.Stack == "")
	}
}

// When a local client is closed its handlers end, and calls fail.
func TestLocalClose(t *testing.T) {
	s := worker.NewServer(worker.WithServerLogger(slog.New(slog.DiscardHandler)))
	began, ended := make(chan struct{}), make(chan error, 1)
	worker.Handle(s, block, func(ctx context.Context, _ string) (string, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return "", ctx.Err()
	})
	c, err := worker.Local(s, worker.WithGrace(time.Millisecond))
	require.NoError(t, err)
	failed := make(chan error, 1)
	go func() {
		_, err := block.Call(context.Background(), c, "x")
		failed <- err
	}()
	<-began
	require.NoError(t, c.Close())
	require.ErrorIs(t, within(t, failed), ipc.ErrClosed)
	require.ErrorIs(t, within(t, ended), context.Canceled)
	_, err = add.Call(t.Context(), c, pair{1, 2})
	require.ErrorIs(t, err, ipc.ErrClosed)
	require.NoError(t, c.Close())
}

// What a client has sent before it is closed is handled, within the grace.
func TestLocalCloseHandlesNotifications(t *testing.T) {
	eachInProcess(t, testLocalCloseHandlesNotifications)
}

func testLocalCloseHandlesNotifications(t *testing.T, connect connectLocal) {
	s := worker.NewServer()
	handled := 0 // one at a time, since the handler is not concurrent
	worker.Handle(s, notify, func(context.Context, string) (struct{}, error) {
		handled++
		return struct{}{}, nil
	})
	c, err := connect(s)
	require.NoError(t, err)
	for range 1000 {
		require.NoError(t, notify.Notify(t.Context(), c, "x"))
	}
	require.NoError(t, c.Close())
	require.Equal(t, 1000, handled)
}

// A handler finds that this process calls, what came with the call, and calls back.
func TestLocalPeerAndCallback(t *testing.T) { eachInProcess(t, testLocalPeerAndCallback) }

func testLocalPeerAndCallback(t *testing.T, connect connectLocal) {
	s := worker.NewServer()
	worker.Handle(s, callback, func(ctx context.Context, n int) (int, error) {
		p, ok := ipc.PeerOf(ctx)
		if want := (ipc.Peer{PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid(), Driver: "local"}); !ok || p != want {
			return 0, ipc.Errorf(ipc.CodeInternal, "peer %+v, want %+v", p, want)
		}
		if err := ipc.SetHeader(ctx, "came", ipc.MetadataOf(ctx).Get("sent")); err != nil {
			return 0, err
		}
		return double.Call(ctx, worker.Host(ctx), n)
	})
	c, err := connect(s)
	require.NoError(t, err)
	defer c.Close()
	worker.Handle(c, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	var header ipc.Metadata
	n, err := callback.Call(t.Context(), c, 21, ipc.WithMetadata("sent", "x"), ipc.WithHeader(&header))
	require.NoError(t, err)
	require.Equal(t, 42, n)
	require.Equal(t, "x", header.Get("came"))
}

// Neither takes an option that means nothing for it, and finds that the two do not agree.
func TestLocalOptions(t *testing.T) { eachInProcess(t, testLocalOptions) }

func testLocalOptions(t *testing.T, connect connectLocal) {
	s := worker.NewServer()
	for name, opt := range map[string]worker.Option{
		"WithRestart": worker.WithRestart(worker.Restart{}), "WithRetry": worker.WithRetry(2), "WithEvents": worker.WithEvents(func(worker.Event) {}),
		"WithPeerCheck": worker.WithPeerCheck(func(drivers.Credentials) error { return nil }), "WithStartTimeout": worker.WithStartTimeout(time.Hour),
	} {
		_, err := connect(s, opt)
		require.ErrorContains(t, err, name)
	}
	s.RequireCodec(ipc.JSON)
	_, err := connect(s)
	var mismatch *ipc.MismatchError
	require.ErrorAs(t, err, &mismatch)
	c, err := connect(s, worker.WithCodec(ipc.JSON))
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// A server tells which methods have handlers.
func TestHandlersMethods(t *testing.T) {
	s := worker.NewServer()
	require.Empty(t, s.Methods())
	worker.Handle(s, block, func(context.Context, string) (string, error) { return "", nil })
	worker.Handle(s, add, func(context.Context, pair) (int, error) { return 0, nil })
	stream := ipc.NewServerStream[int, int]("test.add")
	worker.HandleServerStream(s, stream, func(context.Context, int, *ipc.Sender[int]) error { return nil })
	want := []worker.HandledMethod{{MethodInfo: add.Info()}, {MethodInfo: stream.Info(), Stream: true}, {MethodInfo: block.Info()}}
	require.ElementsMatch(t, want, s.Methods())
	require.Equal(t, want[2], s.Methods()[2])
}

// In a bubble of package synctest a timeout of an hour takes no time.
func TestLocalInABubble(t *testing.T) { eachInProcess(t, testLocalInABubble) }

func testLocalInABubble(t *testing.T, connect connectLocal) {
	synctest.Test(t, func(t *testing.T) {
		s := worker.NewServer()
		worker.Handle(s, add, func(_ context.Context, p pair) (int, error) { return p.A + p.B, nil })
		worker.Handle(s, block, func(ctx context.Context, _ string) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
		c, err := connect(s)
		require.NoError(t, err)
		defer c.Close()
		_, err = block.Call(t.Context(), c, "x", ipc.WithTimeout(time.Hour))
		var timeout *ipc.TimeoutError
		require.ErrorAs(t, err, &timeout)
		n, err := add.Call(t.Context(), c, pair{1, 2})
		require.NoError(t, err)
		require.Equal(t, 3, n)
	})
}
