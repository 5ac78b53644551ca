//go:build linux

package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// The contract of the worker of these tests. Its interceptors do what the metadata of the
// request says, under the key "do".
var (
	plain        = ipc.NewMethod[string, string]("intercept.plain") // returns its request
	plainRaw     = ipc.NewMethod[[]byte, []byte]("intercept.raw", ipc.WithCodec(ipc.Raw))
	plainPlace   = ipc.NewMethod[[]byte, []byte]("intercept.place", ipc.WithCodec(ipc.Raw))
	plainBack    = ipc.NewMethod[string, string]("intercept.back") // plain of the host
	plainNote    = ipc.NewMethod[string, struct{}]("intercept.note")
	plainDie     = ipc.NewMethod[death, int]("intercept.die", ipc.WithIdempotent())
	streamMirror = ipc.NewBidiStream[[]byte, []byte]("intercept.mirror", ipc.WithCodec(ipc.Raw))
	trace        = ipc.NewMethod[int, []string]("intercept.trace") // what the interceptors have noted
)

func init() { entries["intercept"] = serveIntercept }

// journal is what interceptors have seen.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (n *journal) add(format string, args ...any) {
	n.mu.Lock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
	n.mu.Unlock()
}

func (n *journal) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	lines := n.lines
	n.lines = nil
	return lines
}

func textOf(err error) string {
	var e *ipc.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return e.Code.String()
	case errors.Is(err, ipc.ErrPeerGone):
		return "peer gone"
	}
	return err.Error()
}

// noting returns an interceptor that notes what it sees, under a name.
func (n *journal) noting(name string) ipc.Interceptor {
	around := func(kind string) ipc.InterceptFunc {
		return func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			what := fmt.Sprintf("%s %s %s", name, kind, call.Method.Name)
			if call.Attempt > 0 {
				what += fmt.Sprintf(" #%d", call.Attempt)
			}
			if call.OneWay {
				what += " one way"
			}
			if call.Stream {
				n.add("%s begins, %v", what, call.Metadata)
				err := next(ctx)
				n.add("%s ends: sent %d, received %d, %v %v, %s", what, call.Sent, call.Received, call.Header, call.Trailer, textOf(err))
				return err
			}
			n.add("%s begins: %d bytes, %v", what, call.RequestSize, call.Metadata)
			err := next(ctx)
			n.add("%s ends: %d bytes, %v %v, %s", what, call.ResponseSize, call.Header, call.Trailer, textOf(err))
			return err
		}
	}
	return ipc.Interceptor{Call: around("call"), Attempt: around("attempt"), Handle: around("handle")}
}

type contextKey struct{}

// act is the function of an interceptor that does what it is told.
func act(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
	switch call.Metadata.Get("do") {
	case "reject":
		return ipc.NewError(ipc.CodePermissionDenied, "not you")
	case "nothing":
		return nil
	case "panic":
		panic("an interceptor")
	case "panic after":
		_ = next(ctx)
		panic("an interceptor")
	case "exit":
		runtime.Goexit()
	case "wait":
		<-ctx.Done()
		return ctx.Err()
	case "twice":
		return errors.Join(next(ctx), next(ctx))
	case "swallow":
		_ = next(ctx)
		return nil
	case "replace":
		if err := next(ctx); err != nil {
			return ipc.Errorf(ipc.CodeAborted, "replaced: %w", err)
		}
		return nil
	case "elsewhere": // in another goroutine, and is back before it has ended
		begun := make(chan struct{})
		go func() {
			_ = next(context.WithValue(ctx, contextKey{}, begun))
		}()
		<-begun
		return errors.New("back before")
	case "late":
		go func() {
			<-ctx.Done()
			_ = next(ctx)
		}()
		return errors.New("never mind")
	case "value":
		return next(context.WithValue(ctx, contextKey{}, "from outside"))
	case "metadata":
		call.Metadata.Set("do", "was changed")
		return next(ctx)
	}
	return next(ctx)
}

func serveIntercept() error {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	var seen journal
	ownTrace := ipc.Interceptor{Handle: func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
		if call.Method.Name == trace.Info().Name {
			return next(ctx)
		}
		return seen.noting("outer").Handle(ctx, call, next)
	}, Call: seen.noting("outer").Call, Attempt: seen.noting("outer").Attempt}
	s := worker.NewServer(worker.WithServerInterceptors(ownTrace), worker.WithServerInterceptors(ipc.Interceptor{Handle: act}, ipc.Interceptor{}, ipc.Interceptor{Stream: stampOf("<", ">")}))
	echo := func(ctx context.Context, text string) (string, error) {
		switch v := ctx.Value(contextKey{}).(type) {
		case string:
			return v, nil
		case chan struct{}:
			close(v)
			time.Sleep(10 * time.Millisecond) // so that the interceptor returns meanwhile
			return text, nil
		}
		switch text {
		case "fail":
			return "", ipc.NewError(ipc.CodeNotFound, "failed")
		case "panic":
			panic("a handler")
		case "exit":
			runtime.Goexit()
		case "answer":
			return text, errors.Join(ipc.SetHeader(ctx, "h", "1"), ipc.SetTrailer(ctx, "t", "2"))
		}
		return text, nil
	}
	worker.Handle(s, plain, echo)
	worker.Handle(s, plainRaw, func(ctx context.Context, b []byte) ([]byte, error) {
		text, err := echo(ctx, string(b))
		return []byte(text), err
	}, worker.WithInline())
	worker.HandleInPlace(s, plainPlace, func(_ context.Context, call worker.InPlace) error { call.Reply(call.Request()); return nil })
	worker.Handle(s, plainBack, func(ctx context.Context, text string) (string, error) {
		return plain.Call(ctx, worker.Host(ctx), text)
	})
	worker.Handle(s, plainNote, func(ctx context.Context, text string) (struct{}, error) {
		_, err := echo(ctx, text)
		return struct{}{}, err
	})
	worker.Handle(s, plainDie, func(_ context.Context, d death) (int, error) {
		f, err := os.OpenFile(d.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if _, err := f.Write([]byte("x")); err != nil {
			return 0, err
		}
		info, err := f.Stat()
		if err == nil && info.Size() <= int64(d.Times) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			forever()
		}
		return int(info.Size()), err
	})
	handleStreams(s)
	worker.HandleBidiStream(s, streamMirror, func(ctx context.Context, in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		if err := answerWith(ctx); err != nil {
			return err
		}
		for b, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			if bytes.Contains(b, []byte("panic")) {
				panic("a handler")
			}
			if err := out.Send(ctx, b); err != nil {
				return err
			}
		}
		return nil
	})
	worker.Handle(s, trace, func(context.Context, int) ([]string, error) { return seen.take(), nil })
	return s.Serve(context.Background())
}

func (s spawner) startIntercept(t *testing.T, opts ...worker.Option) client {
	t.Helper()
	w, err := s.spawn(t.Context(), worker.Self("intercept"), opts...)
	require.NoError(t, err)
	t.Cleanup(func() { w.Close() })
	return w
}

// Interceptors of both sides see all calls, outermost first, and what belongs to them.
func TestInterceptorsSeeCalls(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		var seen journal
		w := s.startIntercept(t, worker.WithInterceptors(seen.noting("a")), worker.WithInterceptors(seen.noting("b"), ipc.Interceptor{}))
		worker.Handle(w, plain, func(_ context.Context, text string) (string, error) { return text + "!", nil })

		got, err := plain.Call(t.Context(), w, "answer", ipc.WithMetadata("k", "v"))
		require.NoError(t, err)
		require.Equal(t, "answer", got)
		require.Equal(t, []string{
			"a call intercept.plain begins: 7 bytes, [{k v}]",
			"b call intercept.plain begins: 7 bytes, [{k v}]",
			"a attempt intercept.plain #1 begins: 7 bytes, [{k v}]",
			"b attempt intercept.plain #1 begins: 7 bytes, [{k v}]",
			"b attempt intercept.plain #1 ends: 7 bytes, [{h 1}] [{t 2}], ok",
			"a attempt intercept.plain #1 ends: 7 bytes, [{h 1}] [{t 2}], ok",
			"b call intercept.plain ends: 7 bytes, [{h 1}] [{t 2}], ok",
			"a call intercept.plain ends: 7 bytes, [{h 1}] [{t 2}], ok",
		}, seen.take())
		theirs := func() []string {
			t.Helper()
			lines, err := trace.Call(t.Context(), w, 0)
			require.NoError(t, err)
			seen.take()
			return lines
		}
		require.Equal(t, []string{
			"outer handle intercept.plain begins: 7 bytes, [{k v}]",
			"outer handle intercept.plain ends: 7 bytes, [{h 1}] [{t 2}], ok",
		}, theirs())

		_, err = plain.Call(t.Context(), w, "fail")
		require.Equal(t, ipc.CodeNotFound, ipc.CodeOf(err))
		require.Contains(t, seen.take(), "a call intercept.plain ends: 0 bytes, [] [], not_found")
		require.Equal(t, "outer handle intercept.plain ends: 0 bytes, [] [], not_found", theirs()[1])

		// A handler that panics is an error for interceptors.
		_, err = plain.Call(t.Context(), w, "panic")
		var e *ipc.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, ipc.CodeInternal, e.Code)
		require.Contains(t, e.Stack, "intercept_test.go")
		require.Equal(t, "outer handle intercept.plain ends: 0 bytes, [] [], internal", theirs()[1])

		// Callbacks: both sides in the other roles.
		got, err = plainBack.Call(t.Context(), w, "back")
		require.NoError(t, err)
		require.Equal(t, "back!", got)
		require.Contains(t, seen.take(), "b handle intercept.plain ends: 6 bytes, [] [], ok")
		require.Equal(t, []string{
			"outer handle intercept.back begins: 5 bytes, []",
			"outer call intercept.plain begins: 5 bytes, []",
			"outer attempt intercept.plain #1 begins: 5 bytes, []",
			"outer attempt intercept.plain #1 ends: 6 bytes, [] [], ok",
			"outer call intercept.plain ends: 6 bytes, [] [], ok",
			"outer handle intercept.back ends: 6 bytes, [] [], ok",
		}, theirs())

		// In place, and notifications, also when they share a frame.
		b, err := plainPlace.Call(t.Context(), w, []byte("place"))
		require.NoError(t, err)
		require.Equal(t, "place", string(b))
		require.Len(t, theirs(), 2)
		require.NoError(t, plainNote.Notify(t.Context(), w, "note"))
		require.Equal(t, "a call intercept.note one way begins: 5 bytes, []", seen.take()[0])
		require.NoError(t, ipc.Batch(t.Context(), w, func(c ipc.Caller) error {
			for _, text := range []string{"x", "yy", "fail", "panic", "z"} {
				if err := plainNote.Notify(t.Context(), c, text); err != nil {
					return err
				}
			}
			return nil
		}))
		require.Len(t, seen.take(), 5*8)
		var lines []string
		eventually(t, "all notifications are seen", func() bool {
			lines = append(lines, theirs()...)
			return len(lines) == 12
		})
		for i, want := range []string{"ok", "ok", "ok", "not_found", "internal", "ok"} {
			require.True(t, strings.HasSuffix(lines[2*i+1], want), lines)
		}
	})
}

// Calls in flight pass interceptors as well: their requests go out in order, and the metadata
// of their answers comes.
func TestInterceptorsOfCallsInFlight(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		var seen journal
		w := s.startIntercept(t, worker.WithInterceptors(seen.noting("a")))
		for name, batch := range map[string]batcher{"single": single, "batch": ipc.Batch} {
			const calls = 40
			var futures [calls]*ipc.Future[string]
			var headers [calls]ipc.Metadata
			require.NoError(t, batch(t.Context(), w, func(c ipc.Caller) (err error) {
				for i := range futures {
					text := []string{"answer", fmt.Sprint(i), "fail"}[i%3]
					if futures[i], err = plain.Go(t.Context(), c, text, ipc.WithHeader(&headers[i])); err != nil {
						return err
					}
				}
				return nil
			}), name)
			for i, f := range futures {
				got, err := f.Wait(t.Context())
				switch i % 3 {
				case 0:
					require.NoError(t, err)
					require.Equal(t, ipc.Pairs("h", "1"), headers[i])
				case 1:
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint(i), got)
					require.Empty(t, headers[i])
				default:
					require.Equal(t, ipc.CodeNotFound, ipc.CodeOf(err))
				}
			}
			require.Len(t, seen.take(), 4*calls)
			lines, err := trace.Call(t.Context(), w, 0)
			require.NoError(t, err)
			require.Len(t, lines, 2*calls)
			seen.take()
		}

		// Given up, and ended by a context.
		f, err := plain.Go(t.Context(), w, "", ipc.WithMetadata("do", "wait"))
		require.NoError(t, err)
		require.False(t, f.Done())
		f.Abandon()
		_, err = f.Wait(t.Context())
		require.ErrorIs(t, err, ipc.ErrAbandoned)
		ctx, cancel := context.WithCancel(t.Context())
		f, err = plain.Go(ctx, w, "", ipc.WithMetadata("do", "wait"))
		require.NoError(t, err)
		short, stop := context.WithCancel(t.Context())
		stop()
		_, err = f.Wait(short)
		require.ErrorIs(t, err, context.Canceled)
		require.False(t, f.Done(), "the call goes on")
		cancel()
		_, err = f.Wait(t.Context())
		require.ErrorIs(t, err, context.Canceled)
		eventually(t, "the abandoned call is seen to end", func() bool { return len(seen.take()) > 0 })
		require.NoError(t, w.Close())
	})
}

// What an interceptor of a handler does wrong, or to refuse, is the error of its call alone.
func TestInterceptorsOfHandlersThatMisbehave(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.startIntercept(t)
		for _, c := range []struct {
			do, text string
			code     ipc.Code
			want     string
		}{
			{"reject", "x", ipc.CodePermissionDenied, "not you"},
			{"nothing", "x", ipc.CodeInternal, "has not called next"},
			{"panic", "x", ipc.CodeInternal, "panicked: an interceptor"},
			{"panic after", "x", ipc.CodeInternal, "panicked: an interceptor"},
			{"exit", "x", ipc.CodeInternal, "called runtime.Goexit"},
			{"twice", "x", ipc.CodeInternal, "called next twice"},
			{"swallow", "fail", ipc.CodeNotFound, "failed"},
			{"swallow", "panic", ipc.CodeInternal, "panicked: a handler"},
			{"replace", "fail", ipc.CodeAborted, "replaced: not_found: failed"},
			{"elsewhere", "x", ipc.CodeUnknown, "back before"},
			{"late", "x", ipc.CodeUnknown, "never mind"},
			{"", "exit", ipc.CodeInternal, "called runtime.Goexit"},
		} {
			for range 5 { // also where the reader runs the handler
				_, err := plain.Call(t.Context(), w, c.text, ipc.WithMetadata("do", c.do))
				require.Equal(t, c.code, ipc.CodeOf(err), "%s: %v", c.do, err)
				require.ErrorContains(t, err, c.want)
				_, err = plainRaw.Call(t.Context(), w, []byte(c.text), ipc.WithMetadata("do", c.do))
				require.Equal(t, c.code, ipc.CodeOf(err), "%s: %v", c.do, err)
				require.NoError(t, plainNote.Notify(t.Context(), w, c.text, ipc.WithMetadata("do", c.do)))
				got, err := plain.Call(t.Context(), w, "y")
				require.NoError(t, err)
				require.Equal(t, "y", got)
			}
		}
		for do, want := range map[string]string{"swallow": "x", "replace": "x", "value": "from outside", "metadata": "x"} {
			got, err := plain.Call(t.Context(), w, "x", ipc.WithMetadata("do", do))
			require.NoError(t, err, do)
			require.Equal(t, want, got, do)
			b, err := plainRaw.Call(t.Context(), w, []byte("x"), ipc.WithMetadata("do", do))
			require.NoError(t, err, do)
			require.Equal(t, want, string(b), do)
		}
	})
}

// The same of callers.
func TestInterceptorsOfCallersThatMisbehave(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for _, part := range []string{"call", "attempt"} {
			// The metadata goes no further, or the worker's interceptor did the same.
			do := func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
				return act(ctx, call, func(ctx context.Context) error {
					call.Metadata.Del("do")
					return next(ctx)
				})
			}
			i := ipc.Interceptor{Call: do}
			if part == "attempt" {
				i = ipc.Interceptor{Attempt: do}
			}
			w := s.startIntercept(t, worker.WithInterceptors(i))
			calls := map[string]func(text, do string) (string, error){
				"call": func(text, do string) (string, error) {
					return plain.Call(t.Context(), w, text, ipc.WithMetadata("do", do))
				},
				"go": func(text, do string) (string, error) {
					f, err := plain.Go(t.Context(), w, text, ipc.WithMetadata("do", do))
					if err != nil {
						return "", err
					}
					return f.Wait(t.Context())
				},
			}
			for name, call := range calls {
				_, err := call("x", "reject")
				require.Equal(t, ipc.CodePermissionDenied, ipc.CodeOf(err), name)
				_, err = call("x", "nothing")
				require.ErrorContains(t, err, "has not called next")
				_, err = call("fail", "swallow")
				require.Equal(t, ipc.CodeNotFound, ipc.CodeOf(err))
				_, err = call("fail", "replace")
				require.Equal(t, ipc.CodeAborted, ipc.CodeOf(err))
				_, err = call("x", "late")
				require.ErrorContains(t, err, "never mind")
				require.PanicsWithValue(t, "an interceptor", func() { _, _ = call("x", "panic") })
				require.PanicsWithValue(t, "an interceptor", func() { _, _ = call("x", "panic after") })
				got, err := call("x", "swallow")
				require.NoError(t, err)
				require.Equal(t, "x", got)
			}
			got, err := calls["call"]("x", "twice") // which is how an interceptor tries again
			require.NoError(t, err)
			require.Equal(t, "x", got)
			_, err = calls["go"]("x", "twice")
			require.ErrorContains(t, err, "only one that is waited for")
			_, err = calls["go"]("x", "exit")
			require.ErrorContains(t, err, "has ended its goroutine")

			require.Equal(t, ipc.CodePermissionDenied, ipc.CodeOf(plainNote.Notify(t.Context(), w, "x", ipc.WithMetadata("do", "reject"))))
			require.NoError(t, plainNote.Notify(t.Context(), w, "x", ipc.WithMetadata("do", "nothing")), "it is dropped")
			lines, err := trace.Call(t.Context(), w, 0)
			require.NoError(t, err)
			for _, line := range lines {
				require.NotContains(t, line, "intercept.note", "what was refused was sent")
			}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			_, err = plain.Call(ctx, w, "x", ipc.WithMetadata("do", "wait"))
			require.ErrorIs(t, err, context.Canceled)
			require.NoError(t, w.Close())
		}
	})
}

// The context of a handler ends while its interceptor waits, and a worker that is killed then
// takes its calls with it, and nothing else.
func TestInterceptorsWaitWhenThePeerEnds(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.startIntercept(t)
		timeout := 20 * time.Millisecond
		eventually(t, "the interceptor is told", func() bool {
			_, err := plain.Call(t.Context(), w, "x", ipc.WithMetadata("do", "wait"), ipc.WithTimeout(timeout)) // what comes too late does not run
			require.ErrorIs(t, err, context.DeadlineExceeded)
			timeout *= 2
			lines, err := trace.Call(t.Context(), w, 0)
			require.NoError(t, err)
			return len(lines) > 0 && strings.Contains(lines[len(lines)-1], "ends")
		})

		results := make(chan error, 3)
		for range cap(results) {
			go func() {
				_, err := plain.Call(context.Background(), w, "x", ipc.WithMetadata("do", "wait"))
				results <- err
			}()
		}
		var begun int
		eventually(t, "they wait", func() bool {
			lines, err := trace.Call(t.Context(), w, 0)
			require.NoError(t, err)
			begun += len(lines)
			return begun == cap(results)
		})
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
		for range cap(results) {
			var exit *worker.ExitError
			require.ErrorAs(t, <-results, &exit)
		}

		// The host's interceptor waits in a callback when the worker is killed.
		waits := make(chan struct{})
		ended := make(chan error, 1)
		w = s.startIntercept(t, worker.WithInterceptors(ipc.Interceptor{Handle: func(ctx context.Context, _ *ipc.Call, _ func(context.Context) error) error {
			close(waits)
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		}}))
		worker.Handle(w, plain, func(_ context.Context, text string) (string, error) { return text, nil })
		go func() {
			_, err := plainBack.Call(context.Background(), w, "x")
			results <- err
		}()
		<-waits
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
		require.ErrorIs(t, <-results, ipc.ErrPeerGone)
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

// Each attempt of a call is seen, whoever makes it again, and the call once.
func TestInterceptorsSeeAttempts(t *testing.T) {
	want := []string{
		"a call intercept.die begins",
		"a attempt intercept.die #1 begins", "a attempt intercept.die #1 ends peer gone",
		"a attempt intercept.die #2 begins", "a attempt intercept.die #2 ends peer gone",
		"a attempt intercept.die #3 begins", "a attempt intercept.die #3 ends ok",
		"a call intercept.die ends ok",
	}
	shorten := func(lines []string) (short []string) {
		for _, line := range lines {
			what, rest, _ := strings.Cut(line, ":")
			if _, how, ends := strings.Cut(rest, "] [], "); ends {
				what += " " + how
			}
			short = append(short, what)
		}
		return short
	}
	for _, caller := range []string{"client", "pool"} {
		for _, driver := range []string{"shm", "socket"} {
			t.Run(caller+" "+driver, func(t *testing.T) {
				t.Parallel()
				var seen journal
				var mu sync.Mutex
				pids := make(map[int]bool)
				opts := []worker.Option{
					worker.WithRestart(worker.Restart{}), worker.WithRetry(5), worker.WithInterceptors(seen.noting("a"), ipc.Interceptor{
						Attempt: func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
							mu.Lock()
							pids[call.Peer.PID] = true
							mu.Unlock()
							return next(ctx)
						},
					}),
				}
				cmd := worker.Self("intercept")
				var c ipc.Caller
				var closeIt func() error
				switch {
				case caller == "client" && driver == "shm":
					w, err := worker.Spawn(t.Context(), cmd, shm.Driver{}, opts...)
					require.NoError(t, err)
					c, closeIt = w, w.Close
				case caller == "client":
					w, err := worker.Start(t.Context(), cmd, opts...)
					require.NoError(t, err)
					c, closeIt = w, w.Close
				case driver == "shm":
					p, err := pool.New(t.Context(), 2, cmd, shm.Driver{}, pool.WithWorkers(opts...))
					require.NoError(t, err)
					c, closeIt = p, p.Close
				default:
					p, err := pool.New(t.Context(), 2, cmd, socket.Driver{}, pool.WithWorkers(opts...))
					require.NoError(t, err)
					c, closeIt = p, p.Close
				}
				defer closeIt()
				n, err := plainDie.Call(t.Context(), c, death{t.TempDir() + "/f", 2})
				require.NoError(t, err)
				require.Equal(t, 3, n)
				require.Equal(t, want, shorten(seen.take()))
				require.Len(t, pids, 3, "each attempt has its own worker")
			})
		}
	}
}
