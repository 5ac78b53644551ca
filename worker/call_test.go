//go:build unix

package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

func TestCall(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		ctx := t.Context()
		for i := range 1000 {
			sum, err := add.Call(ctx, w, pair{i, 2 * i})
			require.NoError(t, err)
			require.Equal(t, 3*i, sum)
		}
		require.True(t, w.Active())
		require.True(t, w.Connected())
	})
}

func TestRawSizes(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		for _, n := range []int{0, 1, 7, 8, 9, 63, 64, 65, 4095, 4096, 65535, 65537, 1<<20 - 1, 1<<20 + 1, 9 << 20} {
			request := make([]byte, n)
			for i := range request {
				request[i] = byte(rand.Uint32())
			}
			response, err := rawEcho.Call(t.Context(), w, request)
			require.NoError(t, err)
			require.True(t, bytes.Equal(request, response), "%d bytes", n)
		}
	})
}

func TestConcurrentCalls(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		var wg sync.WaitGroup
		for g := range 1000 {
			wg.Go(func() {
				for i := range 5 {
					sum, err := add.Call(context.Background(), w, pair{g, i})
					assert.NoError(t, err)
					assert.Equal(t, g+i, sum)
				}
			})
		}
		wg.Wait()
	})
}

// Handlers that sleep run side by side, and quick calls pass them.
func TestHandlersRunConcurrently(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { _, _ = block.Call(ctx, w, "b") })
		}
		eventually(t, "all 50 in their handlers", func() bool { return count(t, w, "b.begin") == 50 })
		cancel()
		wg.Wait()
		eventually(t, "all 50 out of their handlers", func() bool { return count(t, w, "b.end") == 50 })
	})
}

// A method that has been quick is run by the reader of the link. When it turns
// slow, others go on while it runs.
func TestQuickHandlerTurnsSlow(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		ctx := t.Context()
		for range 200 {
			_, err := sleep.Call(ctx, w, 0)
			require.NoError(t, err)
		}
		for passed, long := 0, 300*time.Millisecond; passed < 2; long *= 2 { // calls while it runs
			require.Less(t, long, time.Minute)
			done := make(chan struct{})
			begun := count(t, w, "sleep.begin")
			go func() {
				defer close(done)
				_, err := sleep.Call(ctx, w, long, ipc.WithTimeout(0))
				assert.NoError(t, err)
			}()
			eventually(t, "the slow one has begun", func() bool { return count(t, w, "sleep.begin") == begun+1 })
			for passed = 0; count(t, w, "sleep.end") == begun; passed++ {
				_, err := add.Call(ctx, w, pair{1, 1})
				require.NoError(t, err)
			}
			<-done
		}
	})
}

func TestCallback(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		worker.Handle(w, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
		for i := range 300 { // enough for the handler to be run by the reader itself
			n, err := callback.Call(t.Context(), w, i)
			require.NoError(t, err)
			require.Equal(t, 2*i, n)
		}
		var wg sync.WaitGroup
		for g := range 32 {
			wg.Go(func() {
				for i := range 20 {
					n, err := callback.Call(context.Background(), w, g*i)
					assert.NoError(t, err)
					assert.Equal(t, 2*g*i, n)
				}
			})
		}
		wg.Wait()
		require.Nil(t, worker.Host(context.Background()))
	})
}

func TestNotify(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		for range 1000 {
			require.NoError(t, notify.Notify(t.Context(), w, "n"))
		}
		eventually(t, "all notifications handled", func() bool { return count(t, w, "n") == 1000 })
	})
}

func TestErrors(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		call := func(how string) *ipc.Error {
			t.Helper()
			_, err := fail.Call(t.Context(), w, how)
			var e *ipc.Error
			require.ErrorAs(t, err, &e)
			require.True(t, e.Remote())
			return e
		}
		e := call("plain")
		require.Equal(t, ipc.CodeUnknown, e.Code)
		require.Equal(t, "plain failure", e.Message)
		e = call("code")
		require.Equal(t, ipc.CodeNotFound, e.Code)
		require.Equal(t, map[string]string{"thing": "x"}, e.Details)
		e = call("sentinel")
		require.ErrorIs(t, e, errSentinel)
		require.NotErrorIs(t, e, io.EOF)
		require.ErrorIs(t, call("exit"), io.EOF)
		e = call("panic")
		require.Equal(t, ipc.CodeInternal, e.Code)
		require.Contains(t, e.Message, "out of cheese")
		require.Contains(t, e.Stack, "main_test.go", "the stack names the line")
		e = call("goexit")
		require.Equal(t, ipc.CodeInternal, e.Code)
		require.Contains(t, e.Message, "Goexit")
		e = call("nil")
		require.Equal(t, ipc.CodeUnknown, e.Code)
		e = call("bad error")
		require.Equal(t, ipc.CodeInternal, e.Code)
		require.Contains(t, e.Message, "no text")
		for range 50 { // a reader that ran the handler itself would have died
			_, err := fail.Call(t.Context(), w, "")
			require.NoError(t, err)
		}
		for range 20 {
			require.Equal(t, ipc.CodeInternal, call("goexit").Code)
			require.Equal(t, ipc.CodeInternal, call("panic").Code)
		}

		_, err := unknown.Call(t.Context(), w, 1)
		require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(err))
		require.ErrorContains(t, err, `"test.no_handler"`)
		require.ErrorContains(t, err, `"test.add"`)
	})
}

func TestCallEndsWithContext(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error)
		go func() {
			_, err := block.Call(ctx, w, "cancel", ipc.WithTimeout(0))
			failed <- err
		}()
		eventually(t, "in the handler", func() bool { return count(t, w, "cancel.begin") == 1 })
		cancel()
		require.Equal(t, context.Canceled, <-failed)
		eventually(t, "the handler's context ended", func() bool { return count(t, w, "cancel.end") == 1 })
		require.Zero(t, count(t, w, "cancel.deadline"))
		eventually(t, "the late answer was counted", func() bool { return w.LateResponses() == 1 })

		name := ""
		for try := 0; name == "" || count(t, w, name+".begin") == 0; try++ { // it is not run if it comes too late
			name = fmt.Sprint("deadline", try)
			ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, err := block.Call(ctx, w, name)
			require.ErrorIs(t, err, context.DeadlineExceeded, "whichever side notices first")
		}
		eventually(t, "the handler's context ended", func() bool { return count(t, w, name+".end") == 1 })
		require.Equal(t, 1, count(t, w, name+".deadline"), "the deadline reached the handler")

		<-ctx.Done()
		_, err := add.Call(ctx, w, pair{})
		require.Equal(t, context.DeadlineExceeded, err, "a context that has ended sends nothing")
	})
}

func TestLimits(t *testing.T) {
	limited := ipc.NewMethod[string, string]("test.block", ipc.WithTimeout(30*time.Millisecond))
	eachDriver(t, func(t *testing.T, s spawner) {
		limitOf := func(err error) time.Duration {
			t.Helper()
			var e *ipc.TimeoutError
			require.ErrorAs(t, err, &e)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, `"test.block"`)
			require.ErrorContains(t, err, e.After.String())
			return e.After
		}
		w := s.start(t, worker.WithCallTimeout(40*time.Millisecond))
		_, err := block.Call(t.Context(), w, "a")
		require.Equal(t, 40*time.Millisecond, limitOf(err), "the client's limit")
		_, err = limited.Call(t.Context(), w, "b")
		require.Equal(t, 30*time.Millisecond, limitOf(err), "the method's goes before it")
		_, err = limited.Call(t.Context(), w, "c", ipc.WithTimeout(20*time.Millisecond))
		require.Equal(t, 20*time.Millisecond, limitOf(err), "the call's goes before both")
		// One that came to the worker too late was not run at all.
		eventually(t, "the handlers' contexts ended", func() bool {
			return count(t, w, "a.end") == count(t, w, "a.begin") && count(t, w, "b.end") == count(t, w, "b.begin") && count(t, w, "c.end") == count(t, w, "c.begin")
		})

		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = limited.Call(ctx, w, "d", ipc.WithTimeout(0))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorAs(t, err, new(*ipc.TimeoutError), "0 is no limit")
	})
}

func TestMessageOverTheLimit(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t, worker.WithMaxMessage(100_000))
		_, err := rawEcho.Call(t.Context(), w, make([]byte, 100_000))
		var e *ipc.SizeError
		require.ErrorAs(t, err, &e)
		require.Equal(t, 100_000, e.Limit)
		require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
		response, err := rawEcho.Call(t.Context(), w, make([]byte, 90_000))
		require.NoError(t, err)
		require.Len(t, response, 90_000)
	})
}

func TestCodecs(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
			w := s.start(t, worker.WithCodec(codec))
			sum, err := add.Call(t.Context(), w, pair{20, 22})
			require.NoError(t, err)
			require.Equal(t, 42, sum)
		}
		w := s.start(t)
		for i := range 100 {
			q := quote{int64(i), 1.5}
			back, err := fixed.Call(t.Context(), w, q)
			require.NoError(t, err)
			require.Equal(t, q, back)
		}
		// Another layout by the same name is another method.
		other := ipc.NewMethod[[3]int64, quote]("test.fixed", ipc.WithCodec(ipc.Fixed))
		_, err := other.Call(t.Context(), w, [3]int64{})
		require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(err))
		require.Panics(t, func() { worker.WithCodec(ipc.Fixed) })

		w = s.start(t, worker.WithCodec(ipc.Raw))
		response, err := anyCodec.Call(t.Context(), w, []byte("raw"))
		require.NoError(t, err)
		require.Equal(t, "raw", string(response))
		_, err = add.Call(t.Context(), w, pair{1, 2})
		require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err))
		require.ErrorContains(t, err, "raw")
	})
}

func TestStartupData(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t, worker.WithData(map[string]int{"answer": 42}))
		p, err := pid.Call(t.Context(), w, 0)
		require.NoError(t, err)
		require.Equal(t, w.PID(), p.PID)
		require.True(t, p.Startup)
		require.False(t, p.Env, "children of a worker are not workers")
		require.Equal(t, map[string]int{"answer": 42}, p.Data)
		require.True(t, strings.HasPrefix(s.name, p.Driver))
		require.Nil(t, drivers.Startup(), "this process has no host")

		_, err = s.spawn(t.Context(), worker.Self("test"), worker.WithData(strings.Repeat("x", 200_000)))
		require.ErrorContains(t, err, "user data 200")
		_, err = s.spawn(t.Context(), worker.Self("test"), worker.WithData(func() {}))
		require.ErrorContains(t, err, "user data")
	})
}

func TestServeWithoutHost(t *testing.T) {
	err := worker.NewServer().Serve(t.Context())
	require.ErrorContains(t, err, "not started by a host")
}

func TestHandleTwicePanics(t *testing.T) {
	s := worker.NewServer()
	worker.Handle(s, add, func(context.Context, pair) (int, error) { return 0, nil })
	require.PanicsWithValue(t, fmt.Sprintf(`tandem: methods "test.add" and "test.add" have the same id %#x: each takes one handler`, add.Info().ID), func() {
		worker.Handle(s, add, func(context.Context, pair) (int, error) { return 0, errors.New("second") })
	})
}
