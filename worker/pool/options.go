package pool

import (
	"fmt"
	"runtime"
	"time"

	"github.com/tandemipc/tandem/worker"
)

// Option is an option of [New].
type Option func(*options)

type options struct {
	workers     worker.Settings // of each worker
	restart     worker.Restart
	attempts    int // of calls
	retryAll    bool
	size        int
	maxSize     int
	idle        time.Duration
	concurrency int
	queue       int
	recycle     Recycle
}

const (
	defaultIdle            = time.Minute
	defaultQueue           = 1024
	defaultRecycleInterval = 5 * time.Second

	// maxConcurrency keeps sums over the workers in an int.
	maxConcurrency = 1 << 20
)

func newOptions(size int, opts []Option) *options {
	o := &options{workers: *worker.Resolve(), size: size, maxSize: size, idle: defaultIdle, concurrency: runtime.GOMAXPROCS(0), queue: defaultQueue}
	for _, opt := range opts {
		opt(o)
	}
	if size < 1 || o.maxSize < size {
		panic(fmt.Sprintf("tandem: pool of %d to %d workers", size, o.maxSize))
	}
	// The pool itself starts workers again, and calls.
	w := &o.workers
	if w.Restart != nil {
		o.restart = *w.Restart
	}
	o.attempts, o.retryAll = w.Attempts, w.RetryAll
	w.Restart, w.Attempts, w.RetryAll = nil, 0, false
	return o
}

// WithWorkers sets options of [worker.Spawn] for each worker of the pool. With
// [worker.WithRetry] a call may be sent again to another worker. [worker.WithEvents] gets
// the events of all workers. [worker.WithInterceptors] puts interceptors around the calls of the
// pool, and around the handlers of its workers' calls. [worker.WithHandlers] has no effect, since the pool has
// handlers of its own. WithWorkers can be given more than once.
func WithWorkers(opts ...worker.Option) Option {
	return func(o *options) {
		for _, opt := range opts {
			opt(&o.workers)
		}
	}
}

// WithMaxSize lets a pool grow up to n workers when calls have to wait, and shrink again
// ([WithIdle]), but not below the size that it starts with. By default a pool keeps that
// size. [New] panics if n is less than that.
func WithMaxSize(n int) Option { return func(o *options) { o.maxSize = n } }

// WithIdle sets how long a pool keeps workers that no call needs. The default is a minute.
// Each time that it has passed, the pool shrinks to the most workers that calls have
// needed at once meanwhile, but not below the size that it started with. WithIdle panics
// if d is not positive.
func WithIdle(d time.Duration) Option {
	if d <= 0 {
		panic(fmt.Sprintf("tandem: idle time of %v", d))
	}
	return func(o *options) { o.idle = d }
}

// WithConcurrency sets how many calls each worker of a pool runs at a time. The default is
// the host's GOMAXPROCS, as many as a worker in Go can compute at once. A larger n suits
// handlers that wait, and 1 suits programs that do one thing at a time. More than a
// million, which no link has pending, count as a million. WithConcurrency panics if n is
// less than 1.
func WithConcurrency(n int) Option {
	if n < 1 {
		panic(fmt.Sprintf("tandem: %d calls at a time for each worker", n))
	}
	return func(o *options) { o.concurrency = min(n, maxConcurrency) }
}

// WithQueue sets how many calls may wait in a pool. The default is 1024; 0 means that no
// call waits. WithQueue panics if n is negative.
func WithQueue(n int) Option {
	if n < 0 {
		panic(fmt.Sprintf("tandem: queue of length %d", n))
	}
	return func(o *options) { o.queue = n }
}

// Recycle says when a pool replaces a worker that works, for example because its program
// leaks memory. The pool starts the successor first. Then the successor takes the place
// of the old worker, which finishes its calls and is closed. So no call is dropped. If
// the successor cannot be started, the old worker stays, and the pool tries again later.
// A pool recycles one worker at a time.
type Recycle struct {
	// Calls is after how many calls a worker is replaced; 0 means never. The worker
	// takes further calls until its successor is ready.
	Calls int
	// Memory is how many bytes of memory a worker's process may occupy (its
	// resident set); 0 means any number. It needs Linux; on other systems New fails
	// with an error that wraps [ipc.ErrUnsupported].
	Memory int64
	// Interval is how often the pool looks at the memory, and how long it waits
	// before it tries again what failed; 0 means 5 s.
	Interval time.Duration
}

// WithRecycle replaces workers of a pool that have had many calls or use much memory: see
// [Recycle]. It panics if a field is negative.
func WithRecycle(r Recycle) Option {
	if r.Calls < 0 || r.Memory < 0 || r.Interval < 0 {
		panic(fmt.Sprintf("tandem: Recycle{Calls: %d, Memory: %d, Interval: %v} has a negative field", r.Calls, r.Memory, r.Interval))
	}
	if r.Interval == 0 {
		r.Interval = defaultRecycleInterval
	}
	return func(o *options) { o.recycle = r }
}
