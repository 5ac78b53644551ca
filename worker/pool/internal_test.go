package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/internal/retry"
	"github.com/tandemipc/tandem/worker/internal/wait"
	"github.com/tandemipc/tandem/worker/pool/internal/scheduler"
)

type process drivers.Process

// fakeWorker is a worker without a process.
type fakeWorker struct {
	process // for the methods that no test calls
	program string
	pid     int
	done    chan struct{}
	once    sync.Once
	closed  atomic.Bool
	events  func(worker.Event)
	invoke  func(context.Context) error
	memory  func([]byte)
	closes  func() error     // what Close does, if it is set
	opened  chan func(error) // what is called at the end of the streams that were opened
}

func (w *fakeWorker) Process() drivers.Process { return w }
func (w *fakeWorker) PID() int                 { return w.pid }
func (w *fakeWorker) Done() <-chan struct{}    { return w.done }
func (w *fakeWorker) Exit() *ipc.ExitError {
	return &ipc.ExitError{PID: w.pid, Program: w.program, Code: 1}
}
func (w *fakeWorker) OpenStream(_ context.Context, _ *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	if w.opened == nil {
		panic("an interceptor")
	}
	w.opened <- o.OnEnd
	return nil, nil
}

func (w *fakeWorker) Active() bool { return !wait.Closed(w.done) }

// die ends the worker. As with a real one, that is seen before its event is published.
func (w *fakeWorker) die() {
	w.once.Do(func() {
		close(w.done)
		if w.events != nil {
			go w.events(worker.Event{Kind: worker.EventExited, PID: w.pid})
		}
	})
}

func (w *fakeWorker) Close() error {
	w.die()
	w.closed.Store(true)
	if w.closes != nil {
		return w.closes()
	}
	return nil
}

func (w *fakeWorker) Invoke(ctx context.Context, _ *ipc.Invocation, _, memory []byte) ([]byte, error) {
	if memory != nil && w.memory != nil {
		w.memory(memory)
	}
	if !w.Active() {
		return nil, retry.NotSent(w.Exit())
	}
	return []byte(w.program), w.invoke(ctx)
}

// fakes starts fake workers, and knows all of them.
type fakes struct {
	mu      sync.Mutex
	workers []*fakeWorker
	start   func(ctx context.Context, n int, program string) error // may refuse the nth start
	invoke  func(ctx context.Context) error
	memory  func([]byte) // is told what a call may put its response into, if anything
}

var errStart = errors.New("it does not start")

func (f *fakes) spawn(ctx context.Context, cmd *exec.Cmd, settings worker.Settings) (scheduler.Client, error) {
	f.mu.Lock()
	n := len(f.workers)
	program := filepath.Base(cmd.Path) // a pool makes it absolute
	w := &fakeWorker{program: program, pid: n + 1, done: make(chan struct{}), invoke: f.invoke, memory: f.memory, events: settings.Events, opened: make(chan func(error), 1)}
	f.workers = append(f.workers, w)
	f.mu.Unlock()
	if f.start != nil {
		if err := f.start(ctx, n, program); err != nil {
			w.once.Do(func() { close(w.done) })
			w.closed.Store(true)
			return nil, err
		}
	}
	return w, nil
}

func (f *fakes) all() []*fakeWorker {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*fakeWorker(nil), f.workers...)
}

// pool makes a pool of fakes, and sees to it that its end leaves nothing.
func (f *fakes) pool(t *testing.T, size int, opts ...Option) *pool {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	if f.invoke == nil {
		f.invoke = func(context.Context) error { return nil }
	}
	opts = append([]Option{WithWorkers(worker.WithLogger(slog.New(slog.DiscardHandler)), worker.WithGrace(time.Second))}, opts...)
	p, err := newPool(t.Context(), newOptions(size, opts), &exec.Cmd{Path: "old"}, f.spawn)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, p.close())
		for _, w := range f.all() {
			require.True(t, w.closed.Load(), "worker %d", w.pid)
		}
		goleak.VerifyNone(t, ignore)
	})
	return p
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(100 * time.Microsecond) {
		if time.Since(start) > time.Minute {
			t.Fatalf("still not: %s", what)
		}
	}
}

func tryCall(p *pool) (string, error) {
	b, err := p.invoke(context.Background(), &ipc.Invocation{Timeout: time.Minute}, nil, nil, 0, scheduler.First)
	return string(b), err
}

func TestNewPoolClosesWhatItHasStarted(t *testing.T) {
	var f fakes
	f.start = func(_ context.Context, n int, _ string) error {
		if n == 4 {
			return errStart
		}
		return nil
	}
	_, err := newPool(t.Context(), newOptions(8, nil), &exec.Cmd{}, f.spawn)
	require.ErrorIs(t, err, errStart)
	for _, w := range f.all() {
		require.True(t, w.closed.Load())
	}
}

// How a worker has ended that was lost and replaced is no fault of the pool's, though nobody looks at that before the pool is closed.
func TestLateNewsOfALostWorker(t *testing.T) {
	var f fakes
	p := f.pool(t, 2, WithWorkers(worker.WithRestart(worker.Restart{Delay: time.Microsecond})))
	closing := make(chan struct{})
	lost, last := f.all()[0], f.all()[1]
	lost.closes = func() error { <-closing; return lost.Exit() }
	lost.die()
	until(t, "it is replaced", func() bool { s := p.stats(); return s.Size == 2 && s.Restarts == 1 })
	last.closes = func() error { close(closing); return nil } // when the pool is closed
	require.NoError(t, p.close())
}

func TestPoolGivesUp(t *testing.T) {
	var f fakes
	var broken atomic.Bool
	f.start = func(_ context.Context, _ int, program string) error {
		if broken.Load() && program == "old" {
			return errStart
		}
		return nil
	}
	var events []string
	p := f.pool(t, 2, WithWorkers(worker.WithRestart(worker.Restart{Delay: time.Microsecond, MaxRestarts: 2})), WithConcurrency(1), WithWorkers(worker.WithEvents(func(e worker.Event) {
		events = append(events, fmt.Sprint(e.Kind))
	})))
	broken.Store(true)
	f.all()[0].die()
	until(t, "one is given up", func() bool { return p.stats().GivenUp == 1 })
	_, err := tryCall(p)
	require.NoError(t, err, "the other one serves")

	f.all()[1].die()
	_, err = tryCall(p) // it may wait until the end
	require.ErrorIs(t, err, errStart)
	_, err = tryCall(p)
	require.ErrorIs(t, err, errStart, "and later ones fail at once")
	require.Equal(t, 2, p.stats().GivenUp)
	require.Error(t, p.replace(t.Context(), &exec.Cmd{Path: "old"}))
	_, err = tryCall(p)
	require.ErrorIs(t, err, errStart)

	require.NoError(t, p.replace(t.Context(), &exec.Cmd{Path: "new"}))
	program, err := tryCall(p)
	require.NoError(t, err)
	require.Equal(t, "new", program)
	require.Equal(t, 2, p.stats().Size)
	require.Zero(t, p.stats().GivenUp)
	require.NoError(t, p.close())
	require.Equal(t, []string{"exited", "restarting", "restarting", "gave up", "exited", "restarting", "restarting", "gave up"}, events[:8])
}

// A Replace that fails half-way goes back, without a call that fails.
func TestPoolReplaceGoesBack(t *testing.T) {
	var f fakes
	f.start = func(_ context.Context, n int, program string) error {
		if program == "new" && n == 6 { // the third of the new ones
			return errStart
		}
		return nil
	}
	p := f.pool(t, 4)
	err := p.replace(t.Context(), &exec.Cmd{Path: "new"})
	require.ErrorIs(t, err, errStart)
	require.ErrorContains(t, err, "run the old program still")
	for _, m := range p.scheduler.Members() {
		require.Equal(t, "old", m.Client.(*fakeWorker).program)
	}
	require.Equal(t, 4, p.stats().Size)

	f.start = func(_ context.Context, _ int, program string) error {
		if program == "old" || len(f.all()) > 12 {
			return errStart
		}
		return nil
	}
	err = p.replace(t.Context(), &exec.Cmd{Path: "new"})
	require.ErrorContains(t, err, "some run the new program still")
	require.Equal(t, 4, p.stats().Size)
	f.start = nil
}

// A seat that waits to be started again is replaced at once.
func TestPoolReplaceOfTheDead(t *testing.T) {
	var f fakes
	p := f.pool(t, 2, WithWorkers(worker.WithRestart(worker.Restart{Delay: time.Hour, MaxDelay: time.Hour})))
	f.all()[0].die()
	until(t, "it is gone", func() bool { return p.stats().Size == 1 })
	require.NoError(t, p.replace(t.Context(), &exec.Cmd{Path: "new"}))
	require.Equal(t, 2, p.stats().Size)
	f.all()[3].die()
	until(t, "it is gone", func() bool { return p.stats().Size == 1 })
	require.Equal(t, 1, p.stats().Starting)
}

// Close ends starts and pauses that are under way.
func TestPoolCloseWhileStarting(t *testing.T) {
	var f fakes
	starting := make(chan struct{}, 10)
	f.start = func(ctx context.Context, n int, _ string) error {
		if n < 2 {
			return nil
		}
		starting <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	block := make(chan struct{})
	f.invoke = func(context.Context) error { <-block; return nil }
	p := f.pool(t, 2, WithMaxSize(3), WithConcurrency(1), WithWorkers(worker.WithRestart(worker.Restart{Delay: time.Nanosecond})))
	var calls sync.WaitGroup
	for range 3 {
		calls.Go(func() { _, _ = tryCall(p) })
	}
	<-starting // it grows
	replaced := make(chan error)
	go func() { replaced <- p.replace(context.Background(), &exec.Cmd{Path: "new"}) }()
	<-starting
	f.all()[1].die()
	close(block)
	require.NoError(t, p.close())
	require.ErrorIs(t, <-replaced, ipc.ErrClosed)
	calls.Wait()
}

// A recycled worker stays if its successor does not start, and is tried again.
func TestPoolRecycleFails(t *testing.T) {
	var f fakes
	var fail atomic.Bool
	fail.Store(true)
	f.start = func(_ context.Context, n int, _ string) error {
		if n > 0 && fail.Load() {
			return errStart
		}
		return nil
	}
	p := f.pool(t, 1, WithRecycle(Recycle{Calls: 3, Interval: time.Millisecond}))
	for range 10 {
		_, err := tryCall(p)
		require.NoError(t, err)
	}
	until(t, "it was tried again", func() bool { return len(f.all()) > 3 })
	require.Zero(t, p.stats().Recycled)
	require.Equal(t, 1, p.stats().Size)
	fail.Store(false)
	until(t, "it was recycled", func() bool { return p.stats().Recycled == 1 })
	require.True(t, f.all()[0].closed.Load() || p.stats().Size == 1)
	require.Zero(t, p.stats().Failed)
}

// Calls that may be made again are not lost while workers die, also when the
// pool is closed meanwhile.
func TestPoolRetries(t *testing.T) {
	var f fakes
	var n atomic.Int64
	p := f.pool(t, 3, WithWorkers(worker.WithRetry(1000)), WithConcurrency(2), WithQueue(100), WithWorkers(worker.WithRestart(worker.Restart{Delay: time.Microsecond, MaxDelay: time.Microsecond, MaxRestarts: -1})))
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for {
				_, err := p.invoke(context.Background(), &ipc.Invocation{Idempotent: true, Timeout: time.Minute}, nil, nil, 0, scheduler.First)
				if err != nil {
					if !errors.Is(err, ipc.ErrClosed) {
						t.Errorf("call lost: %v", err)
					}
					return
				}
				n.Add(1)
			}
		})
	}
	for range 200 {
		all := f.all()
		all[len(all)-1].die()
		before := n.Load()
		until(t, "calls go on", func() bool { return t.Failed() || n.Load() > before+20 })
	}
	require.NoError(t, p.close())
	callers.Wait()
	require.Positive(t, p.stats().Restarts)
}

// Memory for a response belongs to the worker that was given it, also if it has failed: a
// later attempt gets none.
func TestMemoryIsGivenOnce(t *testing.T) {
	var f fakes
	var calls, given atomic.Int64
	f.memory = func([]byte) { given.Add(1) }
	f.invoke = func(context.Context) error {
		if calls.Add(1) < 3 {
			return retry.NotSent(ipc.ErrPeerGone)
		}
		return nil
	}
	p := f.pool(t, 3, WithWorkers(worker.WithRetry(10)))
	_, err := p.invoke(context.Background(), &ipc.Invocation{Idempotent: true, Timeout: time.Minute}, nil, make([]byte, 1), 0, scheduler.First)
	require.NoError(t, err)
	require.EqualValues(t, 3, calls.Load())
	require.EqualValues(t, 1, given.Load())
}

func TestStats(t *testing.T) {
	var f fakes
	p := f.pool(t, 2, WithConcurrency(3))
	for range 10 {
		_, err := tryCall(p)
		require.NoError(t, err)
	}
	st := p.stats()
	require.EqualValues(t, 10, st.Calls)
	require.EqualValues(t, 10, st.Run.Count)
	require.EqualValues(t, 10, st.Wait.Count)
	require.Zero(t, st.Wait.Max)
	require.LessOrEqual(t, st.Run.P50, st.Run.P99)
	require.LessOrEqual(t, st.Run.P99, st.Run.P999)
	require.LessOrEqual(t, st.Run.P999, st.Run.Max)
	require.Greater(t, st.Available, st.Busy)
	require.Zero(t, Stats{}.Utilisation())
	require.Equal(t, 0.25, Stats{Busy: 1, Available: 4}.Utilisation())
}

func TestOptionsPanic(t *testing.T) {
	for name, f := range map[string]func(){
		"idle":        func() { WithIdle(0) },
		"concurrency": func() { WithConcurrency(0) },
		"queue":       func() { WithQueue(-1) },
		"recycle":     func() { WithRecycle(Recycle{Calls: -1}) },
		"size":        func() { newOptions(0, nil) },
		"max size":    func() { newOptions(2, []Option{WithMaxSize(1)}) },
	} {
		require.Panics(t, f, name)
	}
}

func TestResidentMemory(t *testing.T) {
	bytes, err := residentMemory(os.Getpid())
	if errors.Is(err, ipc.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	require.Greater(t, bytes, int64(1<<20))
	require.Less(t, bytes, int64(10<<30))
}

// A stream has a place of its worker until it is over. To close it is no failure.
func TestStreamsThatAreGivenUp(t *testing.T) {
	var f fakes
	p := f.pool(t, 1)
	until(t, "there is a worker", func() bool { return p.stats().Size == 1 })
	failed := uint64(0)
	for _, end := range []error{nil, ipc.ErrClosed, fmt.Errorf("why: %w", ipc.ErrClosed), context.Canceled, &ipc.TimeoutError{}, ipc.Errorf(ipc.CodeInternal, "a handler")} {
		_, err := p.openStream(t.Context(), &ipc.Invocation{}, &ipc.StreamOpening{}, 0, scheduler.First)
		require.NoError(t, err)
		require.Equal(t, 1, p.stats().Running)
		(<-f.all()[0].opened)(end)
		if end != nil && !errors.Is(end, ipc.ErrClosed) {
			failed++
		}
		require.Zero(t, p.stats().Running)
		require.Equal(t, failed, p.stats().Failed, "%v", end)
	}
}

// An interceptor that panics, or ends its goroutine, leaves no place of its worker taken.
func TestPanicsLeaveNoPlaceTaken(t *testing.T) {
	var f fakes
	end := func() { panic("oops") }
	f.invoke = func(context.Context) error { end(); return nil }
	p := f.pool(t, 1)
	until(t, "there is a worker", func() bool { return p.stats().Size == 1 })
	f.all()[0].opened = nil
	for n := uint64(1); n <= 2; n++ {
		require.Panics(t, func() { _, _ = p.attempts(t.Context(), &ipc.Invocation{}, nil, nil, 0, scheduler.First) })
		require.Panics(t, func() {
			_, _ = p.openStream(t.Context(), &ipc.Invocation{}, &ipc.StreamOpening{}, 0, scheduler.First)
		})
		require.Zero(t, p.stats().Running)
		require.Equal(t, 2*n, p.stats().Failed)
	}
	end = runtime.Goexit
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = p.attempts(t.Context(), &ipc.Invocation{}, nil, nil, 0, scheduler.First)
	}()
	<-done
	require.Zero(t, p.stats().Running)
}
