package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// EntryName is the name of the workers' entry in benchmark programs.
const EntryName = "bench"

// UsageRequest asks a worker for its usage.
type UsageRequest struct {
	// GC makes the process collect its garbage before it answers.
	GC bool
	// Reset also makes it give back its free memory, and lets its peak of memory
	// start anew.
	Reset bool
}

var usage = ipc.NewMethod[UsageRequest, measure.Usage]("bench.usage")

// Serve is the body of a worker: it answers the methods that register adds, tells the
// worker's usage, and is a [Sink].
func Serve(register func(*worker.Server)) error {
	s := worker.NewServer()
	worker.Handle(s, usage, func(_ context.Context, r UsageRequest) (measure.Usage, error) { return Usage(r), nil })
	handleSinks(s)
	register(s)
	return s.Serve(context.Background())
}

// Usage returns the usage of this process.
func Usage(r UsageRequest) measure.Usage {
	switch {
	case r.Reset:
		debug.FreeOSMemory()
		measure.ResetPeak()
	case r.GC:
		runtime.GC()
	}
	return measure.Self()
}

// client is all that a client can do.
type client interface {
	ipc.Starter
	ipc.Batcher
	ipc.StreamCaller
}

// Worker is the other process of a benchmark.
type Worker struct {
	client
	name string
	pid  int
	done <-chan struct{}
	exit func() *ipc.ExitError
	stop func() error
	// blamed: an error that was returned says that the worker died.
	blamed atomic.Bool
}

// Start starts this program again as a worker of the subject name.
func Start[C drivers.Channel](ctx context.Context, name string, driver drivers.Driver[C], files []*os.File, opts ...worker.Option) (*Worker, error) {
	cmd := worker.Self(EntryName)
	cmd.ExtraFiles = files
	return StartCommand(ctx, name, cmd, driver, opts...)
}

// StartCommand is Start with a command.
func StartCommand[C drivers.Channel](ctx context.Context, name string, cmd *exec.Cmd, driver drivers.Driver[C], opts ...worker.Option) (*Worker, error) {
	opts = append([]worker.Option{worker.WithMaxMessage(2 * maxSize)}, opts...)
	w, err := worker.Spawn(ctx, cmd, driver, opts...)
	if err != nil {
		return nil, fmt.Errorf("start the worker of %s: %w", name, err)
	}
	p := w.Channel().Process()
	return &Worker{client: w, name: name, pid: w.PID(), done: p.Done(), exit: p.Exit, stop: w.Close}, nil
}

// PID is the worker's process id.
func (w *Worker) PID() int { return w.pid }

// Done is closed when the worker has ended.
func (w *Worker) Done() <-chan struct{} { return w.done }

// Close ends the worker. If the error is how it ended, and Blame has said that
// before, there is none.
func (w *Worker) Close() error {
	err := w.stop()
	if w.blamed.Load() && errors.As(err, new(*ipc.ExitError)) {
		return nil
	}
	return err
}

// blame is an error that names its worker.
type blame struct {
	text string
	err  error
}

func (b *blame) Error() string { return b.text + ": " + b.err.Error() }
func (b *blame) Unwrap() error { return b.err }

// obituary is how long Blame waits for news of the worker's end: an error of
// a socket or pipe comes before it.
const obituary = 5 * time.Second

// Blame adds to err which worker it was, and how it ended if it did.
func (w *Worker) Blame(err error) error {
	if err == nil || errors.As(err, new(*blame)) {
		return err
	}
	died := errors.Is(err, ipc.ErrPeerGone)
	wait := obituary
	if errors.Is(err, ErrGarbled) || errors.Is(err, context.Canceled) {
		wait = 0 // the reason is known, or was known before
	}
	if !died {
		select {
		case <-w.done:
			died = true
		case <-time.After(wait):
			select { // both may have been true
			case <-w.done:
				died = true
			default:
			}
		}
	}
	if !died {
		return &blame{fmt.Sprintf("worker of %s (pid %d)", w.name, w.pid), err}
	}
	w.blamed.Store(true)
	if !errors.As(err, new(*ipc.ExitError)) {
		select {
		case <-w.done:
			err = fmt.Errorf("%w: %w", w.exit(), err)
		case <-time.After(obituary):
		}
	}
	return &blame{fmt.Sprintf("the worker of %s (pid %d) died", w.name, w.pid), err}
}

// Usage asks the worker what it has used.
func (w *Worker) Usage(ctx context.Context, r UsageRequest) (measure.Usage, error) {
	u, err := usage.Call(ctx, w, r)
	return u, w.Blame(err)
}

// While calls f with a context that ends when the worker does, for loops that
// would not notice by themselves.
func (w *Worker) While(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-w.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return w.Blame(f(ctx))
}

// Measure runs f, which fills in what it did, between two readings of what both
// processes have used.
func (w *Worker) Measure(ctx context.Context, f func(*measure.Sample) error) (measure.Sample, error) {
	return between(ctx, w, w.Usage, UsageRequest{GC: true}, f)
}

// MeasureMemory is Measure with the peak of memory and the threads of both.
func (w *Worker) MeasureMemory(ctx context.Context, f func(*measure.Sample) error) (measure.Sample, error) {
	return between(ctx, w, w.Usage, UsageRequest{Reset: true}, f)
}
