package worker

import (
	"fmt"
	"runtime"
	"time"
)

// PoolOption is an option of [NewPool]: one for pools, or an [Option] of [Spawn],
// which goes for each worker of the pool.
type PoolOption interface{ applyPool(*poolOptions) }

type poolOption func(*poolOptions)

func (f poolOption) applyPool(o *poolOptions) { f(o) }

func (f Option) applyPool(o *poolOptions) { f(&o.options) }

type poolOptions struct {
	options             // of each worker
	calls       options // of calls to the pool
	restart     Restart
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

func newPoolOptions(size int, opts []PoolOption) *poolOptions {
	o := &poolOptions{options: *defaultOptions(), size: size, maxSize: size, idle: defaultIdle, concurrency: runtime.GOMAXPROCS(0), queue: defaultQueue}
	for _, opt := range opts {
		opt.applyPool(o)
	}
	if size < 1 || o.maxSize < size {
		panic(fmt.Sprintf("tandem: pool of %d to %d workers", size, o.maxSize))
	}
	// The pool itself starts workers again, and calls.
	o.calls = o.options
	if r := o.options.restart; r != nil {
		o.restart = *r
	}
	o.options.restart, o.options.attempts, o.options.retryAll = nil, 0, false
	return o
}

// WithMaxSize lets a pool grow to n workers when calls find no room, and shrink
// again ([WithIdle]). By default it keeps the size that it starts with, which
// is also the least.
func WithMaxSize(n int) PoolOption { return poolOption(func(o *poolOptions) { o.maxSize = n }) }

// WithIdle sets for how long a pool keeps workers that the calls do not need: a
// minute by default. Each time that it is over the pool shrinks to as many
// workers as the most calls at once have needed meanwhile, but not below the size
// that it started with.
func WithIdle(d time.Duration) PoolOption {
	if d <= 0 {
		panic(fmt.Sprintf("tandem: idle time of %v", d))
	}
	return poolOption(func(o *poolOptions) { o.idle = d })
}

// WithConcurrency sets how many calls one worker of a pool runs at a time. The
// default is GOMAXPROCS, as many as a worker in Go can compute at once. More
// suits handlers that wait, and 1 programs that do one thing at a time.
func WithConcurrency(n int) PoolOption {
	if n < 1 {
		panic(fmt.Sprintf("tandem: %d calls at a time for each worker", n))
	}
	return poolOption(func(o *poolOptions) { o.concurrency = n })
}

// WithQueue sets how many calls may wait in a pool: 1024 by default, 0 for none.
func WithQueue(n int) PoolOption {
	if n < 0 {
		panic(fmt.Sprintf("tandem: queue of length %d", n))
	}
	return poolOption(func(o *poolOptions) { o.queue = n })
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
	// resident set), 0 for no limit. It needs Linux; elsewhere NewPool fails
	// with an error that wraps [ipc.ErrUnsupported].
	Memory int64
	// Interval is how often the memory is looked at, and the pause before what
	// failed is tried again; 0 means 5 s.
	Interval time.Duration
}

// WithRecycle replaces workers of a pool now and then. It panics if a field is
// negative.
func WithRecycle(r Recycle) PoolOption {
	if r.Calls < 0 || r.Memory < 0 || r.Interval < 0 {
		panic(fmt.Sprintf("tandem: Recycle{Calls: %d, Memory: %d, Interval: %v} has a negative field", r.Calls, r.Memory, r.Interval))
	}
	if r.Interval == 0 {
		r.Interval = defaultRecycleInterval
	}
	return poolOption(func(o *poolOptions) { o.recycle = r })
}
