package worker

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
)

// Pool is a number of workers that run the same program and share calls. It is
// an [ipc.Caller], and safe for concurrent use.
//
// Each call goes to the worker that runs the fewest, where calls count too that
// were given up and that the worker has not answered anything since: one that hangs
// gets few. When every worker runs as
// many as it may ([WithConcurrency]) calls wait, first come first served, in a
// queue of bounded length ([WithQueue]); one that finds it full fails at once
// with an [*ipc.Error] of code CodeResourceExhausted. Time in the queue counts
// towards the limit of the call.
//
// A worker whose process or link has ended is replaced, as [WithRestart] says
// (without it as the zero [Restart] says, for each worker by itself), and calls
// go to the others meanwhile, or wait if there is none. When all workers have
// been given up calls fail with an error that wraps the last reason.
type Pool[C drivers.Channel] struct{ *pool }

// pool is a Pool without its type, so that tests can run it without processes.
type pool struct {
	registry

	scheduler *scheduler
	opts      *poolOptions
	spawn     spawnFunc
	events    *events // nil if nobody wants them
	epoch     time.Time

	ctx       context.Context // of the seats; ends when Close has waited for the calls
	stop      context.CancelFunc
	work      sync.WaitGroup // seats, the manager, and workers that are being closed
	hungry    chan struct{}  // has a token when a call has found no room
	recycling chan struct{}  // has a token while a worker is recycled
	replacing chan struct{}  // has a token while Replace runs
	close     func() error   // once

	mu       sync.Mutex
	cmd      *exec.Cmd // what new workers run
	seats    []*seat
	last     uint64  // id of the newest seat
	faults   []error // of workers that were closed with the pool
	restarts uint64
	recycled uint64
}

// spawnFunc starts a worker with those options that are the same for all.
type spawnFunc func(ctx context.Context, cmd *exec.Cmd, o options) (poolClient, error)

// poolClient is what a pool needs of a [Client].
type poolClient interface {
	Invoke(ctx context.Context, call ipc.Invocation) ([]byte, error)
	Active() bool
	Close() error
	process() drivers.Process
}

func (c *Client[C]) process() drivers.Process { return c.Channel().Process() }

// NewPool starts size workers, each as [Spawn] does, and returns when all are
// ready. If one cannot be started the others are ended, and the error is that of
// Spawn. ctx bounds the start only.
//
// The options are those of Spawn and those for pools. NewPool panics if size is
// less than 1, or more than [WithMaxSize].
//
// The pool has to be closed.
func NewPool[C drivers.Channel](ctx context.Context, size int, cmd *exec.Cmd, driver drivers.Driver[C], opts ...PoolOption) (*Pool[C], error) {
	o := newPoolOptions(size, opts)
	p, err := newPool(ctx, o, cmd, func(ctx context.Context, cmd *exec.Cmd, o options) (poolClient, error) {
		w, err := Spawn(ctx, cmd, driver, func(each *options) { *each = o })
		if err != nil {
			return nil, err
		}
		return w, nil
	})
	if err != nil {
		return nil, err
	}
	return &Pool[C]{p}, nil
}

func newPool(ctx context.Context, o *poolOptions, cmd *exec.Cmd, spawn spawnFunc) (*pool, error) {
	if o.recycle.Memory > 0 {
		if _, err := residentMemory(os.Getpid()); err != nil {
			return nil, fmt.Errorf("tandem: recycle workers by their memory: %w", err)
		}
	}
	p := &pool{
		opts: o, spawn: spawn, epoch: time.Now(), cmd: cloneCmd(cmd),
		hungry: make(chan struct{}, 1), recycling: make(chan struct{}, 1), replacing: make(chan struct{}, 1),
	}
	p.scheduler = newScheduler(o.concurrency, o.queue, uint64(o.recycle.Calls), func() {
		select {
		case p.hungry <- struct{}{}:
		default:
		}
	})
	if o.options.events != nil {
		p.events = newEvents(o.options.events)
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.close = sync.OnceValue(p.shutdown)

	members := make([]*member, o.size)
	g, startCtx := errgroup.WithContext(ctx)
	g.SetLimit(4 * runtime.GOMAXPROCS(0)) // so that those that start do so in time
	for i := range members {
		s := p.newSeat(uint64(i))
		p.seats = append(p.seats, s)
		g.Go(func() (err error) {
			members[i], err = p.start(startCtx, s, p.cmd)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		var closing sync.WaitGroup
		for _, m := range members {
			if m != nil {
				closing.Go(func() { _ = m.client.Close() }) // err says why
			}
		}
		closing.Wait()
		p.stop()
		p.events.close(o.timeouts.Grace)
		return nil, err
	}
	p.last = uint64(o.size) - 1
	for i, m := range members {
		p.sit(p.seats[i], m, p.cmd)
	}
	for i, m := range members {
		s := p.seats[i]
		p.work.Go(func() { p.tend(s, m) })
	}
	p.work.Go(p.manage)
	return p, nil
}

// now is the time on the pool's clock.
func (p *pool) now() time.Duration { return time.Since(p.epoch) }

// Codec returns the codec of methods that do not choose one.
func (p *pool) Codec() ipc.Codec { return p.opts.codec }

// Invoke calls a method with an encoded request. It is what [ipc.Method.Call]
// is built on.
func (p *pool) Invoke(ctx context.Context, call ipc.Invocation) ([]byte, error) {
	return p.invoke(ctx, call, 0, entryNew)
}

// Clients returns the workers that take calls now. Calls made on one of them
// itself reach just this one, such as an order to read its files anew, and are not
// counted by the pool. The pool may close any of them at any time.
func (p *Pool[C]) Clients() []*Client[C] {
	p.scheduler.mu.Lock()
	defer p.scheduler.mu.Unlock()
	clients := make([]*Client[C], len(p.scheduler.members))
	for i, m := range p.scheduler.members {
		clients[i] = m.client.(*Client[C])
	}
	return clients
}

var keySeed = maphash.MakeSeed()

// For returns a view of the pool whose calls all go to one worker, which is
// chosen by key: calls with the same key meet the same process and what it has
// cached. They wait for it when it is full, even if others are not.
//
// It is a matter of speed, not of correctness: when workers come or go some keys
// move, as few as possible. A worker that is recycled or replaced hands its keys
// to its successor. The keys of one that crashed are with others until it has been
// started again.
func (p *pool) For(key string) ipc.Caller {
	return &poolView{pool: p, key: max(maphash.String(keySeed, key), 1)}
}

// poolView is a pool whose calls are bound to a key, if it is not 0, and enter it
// in another way.
type poolView struct {
	*pool
	key   uint64
	entry entry
}

func (v *poolView) Invoke(ctx context.Context, call ipc.Invocation) ([]byte, error) {
	return v.invoke(ctx, call, v.key, v.entry)
}

// invoke makes a call, if need be on several workers one after the other.
func (p *pool) invoke(ctx context.Context, call ipc.Invocation, key uint64, e entry) ([]byte, error) {
	begun := p.now()
	limit := call.Timeout
	if limit == ipc.DefaultTimeout {
		limit = p.opts.timeouts.Call
	}
	attempts := 0
	for began := begun; ; {
		m, w, err := p.scheduler.acquire(key, e, began)
		if err != nil {
			return nil, err
		}
		if w != nil {
			if m, err = p.wait(ctx, w, limit, began-begun); err != nil {
				return nil, nameLimit(err, call.Method.Name, limit)
			}
			began = w.began
		}
		if limit > 0 && began > begun {
			call.Timeout = max(limit-(began-begun), 1) // what is left of it
		}
		response, err := m.client.Invoke(ctx, call)
		if err == nil {
			p.scheduler.release(m, began, p.now(), outcome{})
			return response, nil
		}
		if attempts == 0 {
			attempts = p.opts.calls.attemptsFor(&call)
		}
		again := sendAgain(err, &attempts)
		now := p.now()
		if again || !m.client.Active() {
			p.scheduler.lose(m, err, now)
		}
		p.scheduler.release(m, began, now, outcome{failed: true, again: again, silent: isSilent(err)})
		if !again {
			return nil, nameLimit(err, call.Method.Name, limit)
		}
		began, e = now, entryAgain
	}
}

// isSilent reports whether a call ended by err without an answer of its worker.
func isSilent(err error) bool {
	var e *ipc.Error
	return !errors.As(err, &e) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}

// nameLimit names the whole limit of a call in an error that names a part of it.
func nameLimit(err error, method string, limit time.Duration) error {
	if _, over := err.(*ipc.TimeoutError); over || err == errTimeout {
		return timedOut(method, limit)
	}
	return err
}

// wait waits in the queue. spent is what has been spent of the limit.
func (p *pool) wait(ctx context.Context, w *waiter, limit, spent time.Duration) (*member, error) {
	var timeout <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit - spent)
		defer t.Stop()
		timeout = t.C
	}
	var err error
	select {
	case <-w.ready:
		return w.member, w.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout:
		err = errTimeout
	}
	if !p.scheduler.abandon(w) {
		if <-w.ready; w.member != nil {
			p.scheduler.release(w.member, w.began, p.now(), outcome{failed: true})
		}
	}
	return nil, err
}

// Close ends the pool: it takes no more calls, lets those that wait or run finish
// for as long as the grace allows ([WithGrace]), and then closes all workers at
// once, each as [Client.Close] does. It returns when all processes have been
// reaped, which is after three times the grace and a few seconds at the latest.
// Calls that outlast the grace fail with [ipc.ErrClosed].
//
// Close returns the errors of the workers that it closed, joined. Further calls
// return the same.
func (p *Pool[C]) Close() error { return p.pool.close() }

func (p *pool) shutdown() error {
	within(p.scheduler.close(), p.opts.timeouts.Grace, nil)
	p.scheduler.setDown(ipc.ErrClosed)
	p.stop()
	p.work.Wait()
	p.events.close(p.opts.timeouts.Grace)
	return errors.Join(p.faults...)
}
