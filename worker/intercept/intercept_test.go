//go:build unix

package intercept_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/intercept"
)

var call = ipc.Call{Method: echo.Info(), RequestSize: 5, Metadata: ipc.Pairs("tenant", "acme", "secret", "x"), Peer: ipc.Peer{PID: 7}}

// done is a next that returns at once.
func done(err error) func(context.Context) error { return func(context.Context) error { return err } }

func TestLogging(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))
	last := func() (record map[string]any) {
		t.Helper()
		if b.Len() == 0 {
			return nil
		}
		require.NoError(t, json.Unmarshal(b.Bytes(), &record))
		b.Reset()
		delete(record, "time")
		return record
	}
	run := func(f ipc.InterceptFunc, c ipc.Call, err error) map[string]any {
		t.Helper()
		got := f(t.Context(), &c, func(context.Context) error { c.ResponseSize = 9; return err })
		require.Equal(t, err, got)
		record := last()
		if record != nil {
			require.Contains(t, record, "duration")
			delete(record, "duration")
		}
		return record
	}
	i := intercept.Logging(log, intercept.LogOptions{Metadata: []string{"tenant", "none"}})
	want := map[string]any{"level": "DEBUG", "msg": "tandem: call", "method": echo.Info().Name, "request": 5.0, "response": 9.0, "peer": 7.0, "tenant": "acme"}
	require.Equal(t, want, run(i.Call, call, nil))
	want["msg"] = "tandem: handler"
	require.Equal(t, want, run(i.Handle, call, nil))
	require.Nil(t, run(i.Attempt, call, nil))

	want["level"], want["msg"], want["code"], want["error"] = "WARN", "tandem: call", "not_found", "not_found: gone"
	delete(want, "response")
	failed := ipc.NewError(ipc.CodeNotFound, "gone")
	require.Equal(t, want, run(i.Call, call, failed))
	second := call
	second.Attempt = 2
	want["level"], want["msg"], want["attempt"] = "DEBUG", "tandem: attempt", 2.0
	require.Equal(t, want, run(i.Attempt, second, failed))

	note := call
	note.OneWay = true
	record := run(i.Handle, note, nil)
	require.Equal(t, "tandem: handler of a notification", record["msg"])
	require.NotContains(t, record, "response")

	stream := call
	stream.Stream, stream.Sent, stream.Received = true, ipc.Items{Count: 3, Bytes: 30}, ipc.Items{Count: 4}
	record = run(i.Call, stream, nil)
	require.Equal(t, "tandem: call of a stream", record["msg"])
	require.Equal(t, []any{3.0, 4.0}, []any{record["sent"], record["received"]})
	require.NotContains(t, record, "response")
	require.NotContains(t, record, "request")

	// Levels, and what takes long.
	i = intercept.Logging(log, intercept.LogOptions{Done: slog.LevelInfo, Failed: slog.LevelError, Slow: 1})
	require.Equal(t, "ERROR", run(func(ctx context.Context, c *ipc.Call, next func(context.Context) error) error {
		return i.Call(ctx, c, func(ctx context.Context) error {
			for began := time.Now(); time.Since(began) < 1; {
			}
			return next(ctx)
		})
	}, call, nil)["level"])
	quiet := intercept.Logging(slog.New(slog.NewJSONHandler(&b, nil)), intercept.LogOptions{})
	require.Nil(t, run(quiet.Call, call, nil))

	// Panics are logged, and go on.
	require.Panics(t, func() {
		_ = i.Call(t.Context(), &ipc.Call{}, func(context.Context) error { panic("out of cheese") })
	})
	require.Equal(t, "internal", last()["code"])
	require.Panics(t, func() { intercept.Logging(nil, intercept.LogOptions{}) })
}

// recorder counts what runs, by role.
type recorder struct {
	mu      sync.Mutex
	running map[intercept.Role]int
	results map[intercept.Role][]intercept.Result
	sizes   [][2]int
}

func (r *recorder) Begin(role intercept.Role, _ *ipc.Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running == nil {
		r.running, r.results = make(map[intercept.Role]int), make(map[intercept.Role][]intercept.Result)
	}
	r.running[role]++
}

func (r *recorder) End(role intercept.Role, call *ipc.Call, result intercept.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running[role]--
	r.results[role] = append(r.results[role], result)
	r.sizes = append(r.sizes, [2]int{call.RequestSize, call.ResponseSize})
}

func TestMetrics(t *testing.T) {
	var r recorder
	i := intercept.Metrics(&r)
	failed := errors.New("failed")
	for role, f := range map[intercept.Role]ipc.InterceptFunc{intercept.RoleCall: i.Call, intercept.RoleAttempt: i.Attempt, intercept.RoleHandler: i.Handle} {
		c := call
		require.NoError(t, f(t.Context(), &c, func(context.Context) error {
			require.Equal(t, 1, r.running[role])
			c.ResponseSize = 3
			return nil
		}))
		require.Equal(t, [2]int{5, 3}, r.sizes[len(r.sizes)-1])
		require.ErrorIs(t, f(t.Context(), &c, done(failed)), failed)
		require.Panics(t, func() { _ = f(t.Context(), &c, func(context.Context) error { panic("x") }) })
		var exited sync.WaitGroup
		exited.Go(func() { _ = f(t.Context(), &c, func(context.Context) error { runtime.Goexit(); return nil }) })
		exited.Wait()
		require.Zero(t, r.running[role])
		results := r.results[role]
		require.Len(t, results, 4)
		require.NoError(t, results[0].Err)
		require.Zero(t, results[0].Code)
		require.Positive(t, results[0].Duration)
		require.Equal(t, ipc.CodeUnknown, results[1].Code)
		require.Equal(t, ipc.CodeInternal, results[2].Code)
		require.Equal(t, ipc.CodeInternal, results[3].Code)
		require.NotContains(t, role.String(), "role(")
	}
	require.Equal(t, "role(9)", intercept.Role(9).String())
	require.Panics(t, func() { intercept.Metrics(nil) })
}

func TestRateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := call
		i := intercept.RateLimit(intercept.Calls|intercept.Handlers, rate.NewLimiter(1, 2))
		require.NoError(t, i.Call(t.Context(), &c, done(nil)))
		require.NoError(t, i.Handle(t.Context(), &c, done(nil)))
		err := i.Call(t.Context(), &c, done(nil))
		require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
		require.ErrorContains(t, err, "intercept_test.echo")
		time.Sleep(time.Second)
		require.NoError(t, i.Handle(t.Context(), &c, done(nil)))
		require.Nil(t, i.Attempt)

		i = intercept.Throttle(intercept.Calls, rate.NewLimiter(1, 1))
		require.Nil(t, i.Handle)
		began := time.Now()
		for range 3 {
			require.NoError(t, i.Call(t.Context(), &c, done(nil)))
		}
		require.Equal(t, 2*time.Second, time.Since(began))
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(i.Call(short, &c, done(nil))), "it is known before")
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, i.Call(ended, &c, done(nil)), context.Canceled)
	})
	require.Panics(t, func() { intercept.RateLimit(intercept.Calls, nil) })
	require.Panics(t, func() { intercept.Throttle(0, rate.NewLimiter(1, 1)) })
}

// Whatever comes in whatever order, no more run and wait than may, and all turns come back.
func TestConcurrencyLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, queue = 3, 2
		i := intercept.ConcurrencyLimit(intercept.Calls, n, queue)
		release := make(chan error)
		results := make(chan error, 20)
		running := 0 // the bubble lets one goroutine run into release at a time
		var mu sync.Mutex
		begin := func(ctx context.Context) {
			go func() {
				c := call
				results <- i.Call(ctx, &c, func(context.Context) error {
					mu.Lock()
					running++
					mu.Unlock()
					defer func() { mu.Lock(); running--; mu.Unlock() }()
					return <-release
				})
			}()
			synctest.Wait()
		}
		for range n + queue {
			begin(t.Context())
		}
		require.Equal(t, n, running)
		require.Empty(t, results)
		begin(t.Context())
		err := <-results
		require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
		require.ErrorContains(t, err, "3 run at a time, and 2 wait already")

		release <- nil
		synctest.Wait()
		require.NoError(t, <-results)
		require.Equal(t, n, running, "one that waited has its turn")
		ctx, cancel := context.WithCancel(t.Context())
		begin(ctx) // waits
		cancel()
		synctest.Wait()
		require.ErrorIs(t, <-results, context.Canceled)
		for range n + queue - 1 {
			release <- errors.New("failed")
			synctest.Wait()
			require.ErrorContains(t, <-results, "failed")
		}
		require.Zero(t, running)

		// Panics give turns back.
		for range 2 * n {
			require.Panics(t, func() { _ = i.Call(t.Context(), &ipc.Call{}, func(context.Context) error { panic("x") }) })
		}
		require.NoError(t, i.Call(t.Context(), &ipc.Call{}, done(nil)))
	})
	require.Panics(t, func() { intercept.ConcurrencyLimit(intercept.Calls, 0, 1) })
	require.Panics(t, func() { intercept.ConcurrencyLimit(intercept.Calls, 1, -1) })
}

func TestRecovery(t *testing.T) {
	var got *ipc.Error
	var instead error
	i := intercept.Recovery(intercept.Calls, func(_ context.Context, _ *ipc.Call, panicked *ipc.Error) error {
		got = panicked
		return instead
	})
	c := call
	run := func(next func(context.Context) error) error { return i.Call(t.Context(), &c, next) }
	panics := func(context.Context) error { panic("out of cheese") }
	require.Same(t, run(panics), got, "nil counts as the same")
	require.ErrorContains(t, got, "out of cheese")
	require.Contains(t, got.Stack, "intercept_test.go")
	instead = errors.New("instead")
	require.ErrorIs(t, run(panics), instead)

	// That of a handler comes as an error; one of another process is none of our business.
	own := &ipc.Error{Code: ipc.CodeInternal, Message: "panicked", Stack: "here"}
	require.ErrorIs(t, run(done(own)), instead)
	require.Same(t, own, got)
	remote := ipc.ParseError(ipc.AppendError(nil, own))
	got = nil
	require.Equal(t, error(remote), run(done(remote)))
	plain := ipc.NewError(ipc.CodeInternal, "no stack")
	require.Equal(t, error(plain), run(done(plain)))
	require.NoError(t, run(done(nil)))
	require.Nil(t, got)
	require.Panics(t, func() { intercept.Recovery(intercept.Calls, nil) })
}

// Limits and recovery of a worker, as its host sees them, and metrics of the host.
func TestInterceptorsBetweenProcesses(t *testing.T) {
	var r recorder
	eachDriver(t, func(t *testing.T, w ipc.Caller) {
		_, err := echo.Call(t.Context(), w, "panic")
		var e *ipc.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, "an accident", e.Message)
		require.Empty(t, e.Stack)

		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, 4)
		for range cap(results) {
			go func() {
				_, err := hold.Call(ctx, w, "x")
				results <- err
			}()
		}
		// Two run, one waits, and one is refused, whichever.
		require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(<-results))
		require.Eventually(t, func() bool {
			n, err := runs.Call(t.Context(), w, 0)
			require.NoError(t, err)
			return n == 2
		}, time.Minute, time.Millisecond)
		cancel()
		for range cap(results) - 1 {
			require.ErrorIs(t, <-results, context.Canceled)
		}
		_, err = echo.Call(t.Context(), w, "x")
		require.NoError(t, err)
		r.mu.Lock()
		defer r.mu.Unlock()
		require.Zero(t, r.running[intercept.RoleCall])
		require.Zero(t, r.running[intercept.RoleAttempt])
		require.Equal(t, len(r.results[intercept.RoleCall]), len(r.results[intercept.RoleAttempt]))
	}, worker.WithInterceptors(intercept.Metrics(&r)))
}
