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

// WithWorkers gives options of [worker.Spawn], which go for each worker of the pool. What
// [worker.WithRestart], [worker.WithRetry] and [worker.WithEvents] say goes for the pool as
// a whole: a call may be sent again to another worker. Handlers for calls back are those of
// the pool, so [worker.WithHandlers] has no effect. WithWorkers can be given more than
// once.
func WithWorkers(opts ...worker.Option) Option {
	return func(o *options) {
		for _, opt := range opts {
			opt(&o.workers)
		}
	}
}

// WithMaxSize lets a pool grow to n workers when calls find no room, and shrink
// again ([WithIdle]). By default it keeps the size that it starts with, which
// is also the least.
func WithMaxSize(n int) Option { return func(o *options) { o.maxSize = n } }

// WithIdle sets for how long a pool keeps workers that the calls do not need: a
// minute by default. Each time that it is over the pool shrinks to as many
// workers as the most calls at once have needed meanwhile, but not below the size
// that it started with.
func WithIdle(d time.Duration) Option {
	if d <= 0 {
		panic(fmt.Sprintf("tandem: idle time of %v", d))
	}
	return func(o *options) { o.idle = d }
}

// WithConcurrency sets how many calls one worker of a pool runs at a time. The
// default is GOMAXPROCS, as many as a worker in Go can compute at once. More
// suits handlers that wait, and 1 programs that do one thing at a time.
func WithConcurrency(n int) Option {
	if n < 1 {
		panic(fmt.Sprintf("tandem: %d calls at a time for each worker", n))
	}
	return func(o *options) { o.concurrency = n }
}

// WithQueue sets how many calls may wait in a pool: 1024 by default, 0 for none.
func WithQueue(n int) Option {
	if n < 0 {
		panic(fmt.Sprintf("tandem: queue of length %d", n))
	}
	return func(o *options) { o.queue = n }
}

// Recycle says when a worker of a pool is replaced though it is in order, such as
// for a program that leaks. Its successor is started first, and then takes its
// place; the old worker finishes its calls and is closed. So no call is dropped,
// and nothing changes if the successor cannot be started but that this is
// tried again later. One worker of a pool is recycled at a time.
type Recycle struct {
	// Calls is after how many calls a worker is replaced, 0 for never. It goes
	// on with further ones until its successor is ready.
	Calls int
	// Memory is how many bytes of memory a worker's process may occupy (its
	// resident set), 0 for no limit. It needs Linux; elsewhere New fails
	// with an error that wraps [ipc.ErrUnsupported].
	Memory int64
	// Interval is how often the memory is looked at, and the pause before what
	// failed is tried again; 0 means 5 s.
	Interval time.Duration
}

// WithRecycle replaces workers of a pool now and then. It panics if a field is
// negative.
func WithRecycle(r Recycle) Option {
	if r.Calls < 0 || r.Memory < 0 || r.Interval < 0 {
		panic(fmt.Sprintf("tandem: Recycle{Calls: %d, Memory: %d, Interval: %v} has a negative field", r.Calls, r.Memory, r.Interval))
	}
	if r.Interval == 0 {
		r.Interval = defaultRecycleInterval
	}
	return func(o *options) { o.recycle = r }
}
