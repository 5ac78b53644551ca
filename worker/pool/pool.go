// Package pool runs several workers as one caller. A [Pool] shares calls among its
// workers, replaces workers that end, grows and shrinks. [Map] calls a method for each
// request of a sequence.
package pool

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/internal/chain"
	"github.com/tandemipc/tandem/worker/internal/command"
	"github.com/tandemipc/tandem/worker/internal/memory"
	"github.com/tandemipc/tandem/worker/internal/queue"
	"github.com/tandemipc/tandem/worker/internal/retry"
	"github.com/tandemipc/tandem/worker/internal/wait"
	"github.com/tandemipc/tandem/worker/pool/internal/scheduler"
)

// Pool is several workers that run the same program and share calls. It is an
// [ipc.Caller], and safe for concurrent use.
//
// Each call goes to the worker that runs the fewest calls. A call that was given up counts
// until its worker answers something, so a worker that hangs gets few calls. When every
// worker runs as many calls as it may ([WithConcurrency]), further calls wait in a queue,
// first come first served. If the queue is full ([WithQueue]), a call fails at once with
// an [*ipc.Error] of code CodeResourceExhausted. Time in the queue counts towards the
// timeout of the call.
//
// When a worker's process or link has ended, the pool replaces it as [worker.WithRestart]
// says, each worker by itself; without that option, as the zero [worker.Restart] says.
// Meanwhile calls go to the other workers, or wait if there is none. When the pool has
// given up all workers, calls fail with an error that wraps the last reason.
//
// Handlers that [worker.Handle] adds to the pool answer the calls of all its workers.
type Pool[C drivers.Channel] struct {
	*worker.Handlers
	pool *pool
}

// pool is a Pool without its type, so that tests can run it without processes.
type pool struct {
	handlers  worker.Handlers
	scheduler *scheduler.Scheduler
	opts      *options
	chain     *chain.Chain // of the interceptors, nil if there are none
	spawn     spawnFunc
	events    *queue.Queue[worker.Event] // nil if nobody wants them
	epoch     time.Time

	ctx        context.Context // of the slots; ends when Close has waited for the calls
	stop       context.CancelFunc
	work       sync.WaitGroup // slots, the manager, and workers that are being closed
	growNeeded chan struct{}  // has a token when a call has found no room
	recycling  chan struct{}  // has a token while a worker is recycled
	replacing  chan struct{}  // has a token while Replace runs
	close      func() error   // once
	memory     memory.Keeper
	notRetried retry.Notice

	mu       sync.Mutex
	cmd      *exec.Cmd // what new workers run
	slots    []*slot
	last     uint64  // id of the newest slot
	faults   []error // of workers that were closed with the pool
	restarts uint64
	recycled uint64
}

// spawnFunc starts a worker with the settings that are the same for all.
type spawnFunc func(ctx context.Context, cmd *exec.Cmd, settings worker.Settings) (scheduler.Client, error)

// New starts size workers, each as [worker.Spawn] does, and returns when all take calls.
// If one cannot be started, New ends the others and returns the error of Spawn. ctx
// bounds only the start. [WithWorkers] takes options of Spawn.
//
// New panics if size is less than 1, or more than [WithMaxSize].
//
// The pool has to be closed.
func New[C drivers.Channel](ctx context.Context, size int, cmd *exec.Cmd, driver drivers.Driver[C], opts ...Option) (*Pool[C], error) {
	o := newOptions(size, opts)
	p, err := newPool(ctx, o, cmd, func(ctx context.Context, cmd *exec.Cmd, settings worker.Settings) (scheduler.Client, error) {
		w, err := worker.Spawn(ctx, cmd, driver, settings.Option())
		if err != nil {
			return nil, err
		}
		return w, nil
	})
	if err != nil {
		return nil, err
	}
	return &Pool[C]{&p.handlers, p}, nil
}

func newPool(ctx context.Context, o *options, cmd *exec.Cmd, spawn spawnFunc) (*pool, error) {
	if o.recycle.Memory > 0 {
		if _, err := residentMemory(os.Getpid()); err != nil {
			return nil, fmt.Errorf("tandem: recycle workers by their memory: %w", err)
		}
	}
	p := &pool{
		opts: o, chain: chain.New(o.workers.Interceptors), spawn: spawn, epoch: time.Now(), cmd: command.Clone(cmd),
		growNeeded: make(chan struct{}, 1), recycling: make(chan struct{}, 1), replacing: make(chan struct{}, 1),
	}
	p.memory.Init(o.workers.Arena, o.workers.Logger)
	o.workers.Memory = &p.memory
	p.scheduler = scheduler.New(o.concurrency, o.queue, uint64(o.recycle.Calls), func() {
		select {
		case p.growNeeded <- struct{}{}:
		default:
		}
	})
	if receive := o.workers.Events; receive != nil {
		p.events = queue.New(worker.MaxEvents, func(e worker.Event, missed int) {
			e.Missed = missed
			receive(e)
		})
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.close = sync.OnceValue(p.shutdown)

	members := make([]*member, o.size)
	g, startCtx := errgroup.WithContext(ctx)
	g.SetLimit(4 * runtime.GOMAXPROCS(0)) // so that those that start do so in time
	for i := range members {
		s := p.newSlot(uint64(i))
		p.slots = append(p.slots, s)
		g.Go(func() (err error) {
			members[i], err = p.start(startCtx, s, p.cmd)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		var closing sync.WaitGroup
		for _, m := range members {
			if m != nil {
				closing.Go(func() { _ = m.Client.Close() }) // err says why
			}
		}
		closing.Wait()
		p.stop()
		p.events.Close(o.workers.Timeouts.Grace)
		p.memory.Close()
		return nil, err
	}
	p.last = uint64(o.size) - 1
	for i, m := range members {
		p.install(p.slots[i], m, p.cmd, nil)
	}
	for i, m := range members {
		s := p.slots[i]
		p.work.Go(func() { p.serve(s, m) })
	}
	p.work.Go(p.manage)
	return p, nil
}

// now is the time on the pool's clock.
func (p *pool) now() time.Duration { return time.Since(p.epoch) }

// Codec returns the codec of methods that do not choose one.
func (p *Pool[C]) Codec() ipc.Codec {
	if p == nil {
		panic("tandem: the pool is nil")
	}
	return p.pool.opts.workers.Codec
}

// Invoke calls a method with an encoded request. It is what [ipc.Method.Call]
// is built on.
func (p *Pool[C]) Invoke(ctx context.Context, call *ipc.Invocation, request, memory []byte) ([]byte, error) {
	return p.pool.invoke(ctx, call, request, memory, 0, scheduler.First)
}

// Clients returns the workers that take calls now. Calls made on one of them
// itself reach just this one, such as an order to read its files anew, and are not
// counted by the pool. The pool may close any of them at any time.
func (p *Pool[C]) Clients() []*worker.Client[C] {
	members := p.pool.scheduler.Members()
	clients := make([]*worker.Client[C], len(members))
	for i, m := range members {
		clients[i] = m.Client.(*worker.Client[C])
	}
	return clients
}

// errTimeout is how a call ends whose timeout runs out in the queue.
var errTimeout = errors.New("timeout")

var keySeed = maphash.MakeSeed()

// For returns a view of the pool whose calls all go to one worker, which is
// chosen by key: calls with the same key meet the same process and what it has
// cached. They wait for it when it is full, even if others are not.
//
// Use keys for speed, not for correctness: when workers come or go some keys move to other
// workers, as few as possible. When a worker is recycled or replaced, its successor gets
// its keys. When a worker has crashed, others have its keys until it was started again.
func (p *Pool[C]) For(key string) ipc.Caller {
	return &view{pool: p.pool, key: max(maphash.String(keySeed, key), 1)}
}

// Stats returns what the pool does and has done. It costs some microseconds, in
// which calls may have to wait.
func (p *Pool[C]) Stats() Stats { return p.pool.stats() }

// view is a pool whose calls are bound to a key, if it is not 0, and enter it in
// another way.
type view struct {
	pool  *pool
	key   uint64
	entry scheduler.Entry
}

// Codec implements [ipc.Caller].
func (v *view) Codec() ipc.Codec { return v.pool.opts.workers.Codec }

// Invoke implements [ipc.Caller].
func (v *view) Invoke(ctx context.Context, call *ipc.Invocation, request, memory []byte) ([]byte, error) {
	return v.pool.invoke(ctx, call, request, memory, v.key, v.entry)
}

// invoke makes a call, inside of the interceptors if there are any.
func (p *pool) invoke(ctx context.Context, call *ipc.Invocation, request, memory []byte, key uint64, e scheduler.Entry) ([]byte, error) {
	if !p.chain.Calls() {
		return p.attempts(ctx, call, request, memory, key, e)
	}
	return p.chain.Call.Invoke(ctx, call, 0, ipc.Peer{}, request, memory, func(ctx context.Context, call *ipc.Invocation, request, memory []byte) ([]byte, error) {
		return p.attempts(ctx, call, request, memory, key, e)
	})
}

// attempts makes a call, if need be on several workers one after the other.
func (p *pool) attempts(ctx context.Context, call *ipc.Invocation, request, memory []byte, key uint64, e scheduler.Entry) ([]byte, error) {
	begun := p.now()
	timeout := call.Timeout
	if timeout == ipc.DefaultTimeout {
		timeout = p.opts.workers.Timeouts.Call
	}
	attempts := 0
	for n, began := 1, begun; ; n++ {
		m, err := p.acquire(ctx, &call, key, e, timeout, begun, &began)
		if err != nil {
			return nil, err
		}
		if p.chain.Calls() {
			numbered := *call
			numbered.Attempt = n
			call = &numbered
		}
		var response []byte
		p.guard(m, began, func() { response, err = m.Client.Invoke(ctx, call, request, memory) })
		if err == nil {
			p.scheduler.Release(m, began, p.now(), scheduler.Outcome{})
			return response, nil
		}
		memory = nil // it was taken over
		if attempts == 0 {
			attempts = retry.Attempts(call, p.opts.attempts, p.opts.retryAll)
		}
		again := retry.Again(err, &attempts)
		now := p.now()
		if again || !m.Client.Active() {
			p.scheduler.Lose(m, err, now)
		}
		p.scheduler.Release(m, began, now, scheduler.Outcome{Failed: true, Again: again, Unresponsive: isUnanswered(err)})
		if !again {
			p.notRetried.Give(p.opts.workers.Logger, err, call, p.opts.attempts, p.opts.retryAll)
			return nil, nameTimeout(err, call.Method.Name, timeout)
		}
		began, e = now, scheduler.Again
	}
}

// guard calls f, which uses a place of m since began, and gives the place back if f panics or
// ends its goroutine: interceptors may.
func (p *pool) guard(m *scheduler.Member, began time.Duration, f func()) {
	returned := false
	defer func() {
		if !returned {
			p.scheduler.Release(m, began, p.now(), scheduler.Outcome{Failed: true, Unknown: true})
		}
	}()
	f()
	returned = true
}

// acquire takes a place of a worker for a call that begun, and waits for one if need be. It
// returns when the call began to have it, and a call with what is left of its timeout.
func (p *pool) acquire(ctx context.Context, call **ipc.Invocation, key uint64, e scheduler.Entry, timeout, begun time.Duration, began *time.Duration) (*scheduler.Member, error) {
	m, w, err := p.scheduler.Acquire(key, e, *began)
	if err != nil {
		return nil, err
	}
	if w != nil {
		if m, err = p.await(ctx, w, timeout, *began-begun); err != nil {
			return nil, nameTimeout(err, (*call).Method.Name, timeout)
		}
		*began = w.Began
	}
	if timeout > 0 && *began > begun {
		shorter := **call
		shorter.Timeout = max(timeout-(*began-begun), 1) // what is left of it
		*call = &shorter
	}
	return m, nil
}

// isUnanswered reports whether a call ended by err without an answer of its worker.
func isUnanswered(err error) bool {
	var e *ipc.Error
	return !errors.As(err, &e) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}

// nameTimeout names the whole timeout of a call in an error that names a part of it.
func nameTimeout(err error, method string, timeout time.Duration) error {
	if _, over := err.(*ipc.TimeoutError); over || err == errTimeout {
		return &ipc.TimeoutError{What: fmt.Sprintf("call of %q", method), After: timeout}
	}
	return err
}

// await waits in the queue. spent is what has been spent of the timeout.
func (p *pool) await(ctx context.Context, w *scheduler.Waiter, timeout, spent time.Duration) (*scheduler.Member, error) {
	var ranOut <-chan time.Time
	if timeout > 0 {
		t := time.NewTimer(timeout - spent)
		defer t.Stop()
		ranOut = t.C
	}
	var err error
	select {
	case <-w.Ready:
		return w.Member, w.Err
	case <-ctx.Done():
		err = ctx.Err()
	case <-ranOut:
		err = errTimeout
	}
	if !p.scheduler.Abandon(w) {
		if <-w.Ready; w.Member != nil {
			p.scheduler.Release(w.Member, w.Began, p.now(), scheduler.Outcome{Failed: true})
		}
	}
	return nil, err
}

// Close ends the pool. It refuses further calls, lets waiting and running calls finish
// within the grace ([worker.WithGrace]), and then closes all workers at once, each as
// [worker.Client.Close] does. Calls that outlast the grace fail with [ipc.ErrClosed].
// Close returns when all processes have been reaped, after three times the grace and a
// few seconds at the latest.
//
// Close returns the joined errors of the workers that it closed. Further calls return
// the same.
func (p *Pool[C]) Close() error { return p.pool.close() }

func (p *pool) shutdown() error {
	wait.Within(p.scheduler.Close(), p.opts.workers.Timeouts.Grace, nil)
	p.scheduler.SetDown(ipc.ErrClosed)
	p.stop()
	p.work.Wait()
	p.events.Close(p.opts.workers.Timeouts.Grace)
	p.memory.Close()
	return errors.Join(p.faults...)
}
