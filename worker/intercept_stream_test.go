//go:build linux

package worker_test

import (
	"context"
	"errors"
	"io"
	"strings"
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

// stamped puts text before each item of a raw stream that is received, and behind each that is
// sent.
type stamped struct {
	ipc.Stream
	received, sent string
}

// stampOf returns a function of an interceptor that stamps the items of streamMirror.
func stampOf(received, sent string) func(context.Context, *ipc.Call, ipc.Stream) ipc.Stream {
	return func(_ context.Context, call *ipc.Call, s ipc.Stream) ipc.Stream {
		if call.Method.Name != streamMirror.Info().Name {
			return s
		}
		return &stamped{s, received, sent}
	}
}

func (s *stamped) Send(ctx context.Context, item []byte) error {
	return s.Stream.Send(ctx, append(append([]byte(nil), item...), s.sent...))
}

func (s *stamped) Receive(ctx context.Context) ([]byte, error) {
	b, err := s.Stream.Receive(ctx)
	if err != nil {
		return nil, err
	}
	return append([]byte(s.received), b...), nil
}

// eventuallySeen waits until there are n lines.
func eventuallySeen(t *testing.T, take func() []string, n int) (lines []string) {
	t.Helper()
	eventually(t, "the interceptors have returned", func() bool {
		lines = append(lines, take()...)
		return len(lines) >= n
	})
	return lines
}

// Interceptors of both sides see streams as they see calls, and what goes through them.
func TestInterceptorsSeeStreams(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		var seen journal
		w := s.startIntercept(t, worker.WithInterceptors(seen.noting("a"), seen.noting("b")))
		theirs := func() []string {
			t.Helper()
			lines, err := trace.Call(t.Context(), w, 0)
			require.NoError(t, err)
			return lines
		}

		n := 0
		for i, err := range numbers.Stream(t.Context(), w, counting{N: 5}, ipc.WithMetadata("k", "v")) {
			require.NoError(t, err)
			require.Equal(t, n, i)
			n++
		}
		require.Equal(t, 5, n)
		require.Equal(t, []string{
			"a call test.numbers begins, [{k v}]",
			"b call test.numbers begins, [{k v}]",
			"a attempt test.numbers #1 begins, [{k v}]",
			"b attempt test.numbers #1 begins, [{k v}]",
			"b attempt test.numbers #1 ends: sent {0 0}, received {5 5}, [] [], ok",
			"a attempt test.numbers #1 ends: sent {0 0}, received {5 5}, [] [], ok",
			"b call test.numbers ends: sent {0 0}, received {5 5}, [] [], ok",
			"a call test.numbers ends: sent {0 0}, received {5 5}, [] [], ok",
		}, eventuallySeen(t, seen.take, 8))
		lines := eventuallySeen(t, theirs, 2)
		require.Equal(t, "outer handle test.numbers begins, [{k v}]", lines[0])
		require.Regexp(t, "^outer handle test.numbers ends: sent .5 5., received .1 [0-9]+., .. .., ok$", lines[1])
		eventuallySeen(t, seen.take, 8)

		up, err := sum.Open(t.Context(), w)
		require.NoError(t, err)
		for i := range 10 {
			require.NoError(t, up.Send(t.Context(), i))
		}
		total, err := up.CloseAndReceive(t.Context())
		require.NoError(t, err)
		require.Equal(t, 45, total)
		require.Equal(t, "a call test.sum ends: sent {10 10}, received {1 2}, [] [], ok", eventuallySeen(t, seen.take, 8)[7])
		require.Equal(t, "outer handle test.sum ends: sent {1 2}, received {10 10}, [] [], ok", eventuallySeen(t, theirs, 2)[1])
		eventuallySeen(t, seen.take, 8)

		// An error, of the handler and of one that panics.
		for _, err := range numbers.Stream(t.Context(), w, counting{N: 3, Error: "enough"}) {
			if err != nil {
				require.ErrorIs(t, err, errSentinel)
			}
		}
		require.Equal(t, "a call test.numbers ends: sent {0 0}, received {3 3}, [] [], unknown", eventuallySeen(t, seen.take, 8)[7])
		eventuallySeen(t, theirs, 2)
		eventuallySeen(t, seen.take, 8)

		// Items are changed where they go through, the metadata of the answer comes, and a handler
		// that panics is an error for interceptors.
		var header, trailer ipc.Metadata
		st, err := streamMirror.Open(t.Context(), w, ipc.WithMetadata("x", "y"), ipc.WithHeader(&header), ipc.WithTrailer(&trailer))
		require.NoError(t, err)
		require.NoError(t, st.Send(t.Context(), []byte("item")))
		b, err := st.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, "<item>", string(b))
		require.Equal(t, ipc.Pairs("x", "y"), header)
		require.NoError(t, st.CloseSend(t.Context()))
		_, err = st.Receive(t.Context())
		require.Equal(t, io.EOF, err)
		require.Equal(t, ipc.Pairs("x", "y"), trailer)
		eventuallySeen(t, seen.take, 8)
		require.Equal(t, "outer handle intercept.mirror ends: sent {1 6}, received {1 4}, [{x y}] [{x y}], ok", eventuallySeen(t, theirs, 2)[1])
		eventuallySeen(t, seen.take, 8)

		// Given up: by leaving the loop, and by a context.
		for range numbers.Stream(t.Context(), w, counting{N: 1 << 20}) {
			break
		}
		require.Contains(t, eventuallySeen(t, seen.take, 8)[7], "closed")
		require.Contains(t, eventuallySeen(t, theirs, 2)[1], "canceled")
		eventuallySeen(t, seen.take, 8)
		ctx, cancel := context.WithCancel(t.Context())
		_, err = doubles.Open(ctx, w)
		require.NoError(t, err)
		cancel()
		require.Contains(t, eventuallySeen(t, seen.take, 8)[7], "canceled")
	})
}

// What an interceptor does wrong, or to refuse, is the error of its stream alone.
func TestInterceptorsOfStreamsThatMisbehave(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		host := func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			do, ok := strings.CutPrefix(call.Metadata.Get("do"), "host ")
			if !ok {
				return next(ctx)
			}
			own := *call
			own.Metadata = ipc.Pairs("do", do)
			return act(ctx, &own, func(ctx context.Context) error {
				call.Metadata.Del("do")
				return next(ctx)
			})
		}
		w := s.startIntercept(t, worker.WithInterceptors(ipc.Interceptor{Call: host}))
		use := func(do, item string) error {
			st, err := streamMirror.Open(t.Context(), w, ipc.WithMetadata("do", do))
			if err != nil {
				return err
			}
			defer st.Close()
			if err := st.Send(t.Context(), []byte(item)); err != nil && err != io.EOF {
				return err
			}
			if err := st.CloseSend(t.Context()); err != nil && err != io.EOF {
				return err
			}
			for _, err := range st.All(t.Context()) {
				if err != nil {
					return err
				}
			}
			return nil
		}
		for _, c := range []struct {
			do, item string
			code     ipc.Code
			want     string
		}{
			{"reject", "x", ipc.CodePermissionDenied, "not you"},
			{"nothing", "x", ipc.CodeInternal, "has not called next"},
			{"panic", "x", ipc.CodeInternal, "panicked: an interceptor"},
			{"panic after", "x", ipc.CodeInternal, "panicked: an interceptor"},
			{"exit", "x", ipc.CodeInternal, "called runtime.Goexit"},
			{"twice", "x", ipc.CodeInternal, "called next twice"},
			{"swallow", "panic", ipc.CodeInternal, "panicked: a handler"},
			{"replace", "panic", ipc.CodeAborted, "replaced"},
			{"host reject", "x", ipc.CodePermissionDenied, "not you"},
			{"host nothing", "x", ipc.CodeInternal, "has not opened it"},
			{"host exit", "x", ipc.CodeInternal, "has ended its goroutine"},
			{"host late", "x", ipc.CodeUnknown, "never mind"},
		} {
			for range 3 {
				err := use(c.do, c.item)
				require.Equal(t, c.code, ipc.CodeOf(err), "%s: %v", c.do, err)
				require.ErrorContains(t, err, c.want, c.do)
				require.NoError(t, use("", "x"))
			}
		}
		require.PanicsWithValue(t, "an interceptor", func() { _ = use("host panic", "x") })
		for _, do := range []string{"swallow", "replace", "host swallow", "host replace", "host twice", "host metadata"} {
			require.NoError(t, use(do, "x"), do)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		_, err := streamMirror.Open(ctx, w, ipc.WithMetadata("do", "host wait"))
		require.ErrorIs(t, err, context.Canceled)
	})
}

// Streams of a worker that dies, and attempts to open one.
func TestInterceptorsOfStreamsThatEnd(t *testing.T) {
	for _, driver := range []string{"shm", "socket"} {
		t.Run(driver, func(t *testing.T) {
			var seen journal
			opts := []worker.Option{worker.WithInterceptors(seen.noting("a"))}
			var p interface {
				ipc.Caller
				Stats() pool.Stats
				Close() error
			}
			var err error
			if driver == "shm" {
				p, err = pool.New(t.Context(), 1, worker.Self("intercept"), shm.Driver{}, pool.WithWorkers(opts...))
			} else {
				p, err = pool.New(t.Context(), 1, worker.Self("intercept"), socket.Driver{}, pool.WithWorkers(opts...))
			}
			require.NoError(t, err)
			defer p.Close()
			n := 0
			for _, err := range numbers.Stream(t.Context(), p, counting{N: 4, Die: true}) {
				if err != nil {
					var exit *ipc.ExitError
					require.ErrorAs(t, err, &exit)
					require.Equal(t, syscall.SIGKILL, exit.Signal)
					break
				}
				n++
			}
			require.Equal(t, 4, n)
			lines := eventuallySeen(t, seen.take, 4)
			require.Contains(t, lines[2], "a attempt test.numbers #1 ends")
			require.Contains(t, lines[3], "peer gone")

			// A stream that is over gives its place back, though nobody has read its end yet.
			eventually(t, "there is another worker", func() bool { return p.Stats().Size == 1 })
			st, err := doubles.Open(t.Context(), p)
			require.NoError(t, err)
			require.NoError(t, st.Send(t.Context(), 1))
			require.NoError(t, st.CloseSend(t.Context()))
			eventually(t, "the place is free", func() bool { return p.Stats().Running == 0 })
			require.Len(t, seen.take(), 2)
			got, err := st.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, 2, got)
			_, err = st.Receive(t.Context())
			require.Equal(t, io.EOF, err)
			lines = eventuallySeen(t, seen.take, 2)
			require.Equal(t, "a call test.doubles ends: sent {1 1}, received {1 1}, [] [], ok", lines[1])
			require.False(t, errors.Is(p.Close(), ipc.ErrClosed))
		})
	}
}
