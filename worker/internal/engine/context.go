package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/chain"
)

// requestContext is the context of one handler. It makes a real one only when somebody
// waits for its end, since most handlers return before.
//
// A handler may keep its context, so it is not used again, except by handlers in place,
// which may not. But contexts are made by the dozen: see [Session.newContext].
type requestContext struct {
	session *Session
	tx      uint64
	timeout time.Duration // 0 if there is none
	word    uint64        // the reader state while the background reader runs the handler, or 0

	deadline atomic.Int64 // by monotonic, 0 until somebody asks
	// real is nil at first, then the real context, or ended.
	real     atomic.Pointer[realContext]
	timedOut atomic.Bool              // it was cancelled because its deadline has passed
	exchange atomic.Pointer[exchange] // nil if neither request nor answer has metadata
}

// ended stands for a real context that nobody needed before the end.
var ended = new(realContext)

// contextChunk is how many contexts are made at once: as many as fill a size of the
// allocator's.
const contextChunk = 32

// newContext returns a context without contents. It is called with the reader state.
func (s *Session) newContext() *requestContext {
	n := uint64(contextChunk)
	if s.reader.contexts == nil {
		n = 1 // most clients of a service are idle, and handlers in place need no more
	}
	return takeContext(&s.reader.contexts, n)
}

// takeContext takes the first of the contexts in chunk, and makes n if there is none.
func takeContext(chunk *[]requestContext, n uint64) *requestContext {
	if len(*chunk) == 0 {
		*chunk = make([]requestContext, n)
	}
	c := &(*chunk)[0]
	*chunk = (*chunk)[1:]
	return c
}

// init makes c the context of a request. c is new or reusable.
func (c *requestContext) init(s *Session, tx uint64, timeout time.Duration) {
	c.session, c.tx, c.timeout, c.word = s, tx, timeout, 0
	if c.deadline.Load() != 0 {
		c.deadline.Store(0)
	}
}

// reusable reports whether c can be the context of another request, when its time is over.
func (c *requestContext) reusable() bool { return c.real.Load() == nil && c.exchange.Load() == nil }

// fixDeadline makes the time of the request count from now on, if it does not yet. While
// the background reader runs a handler, its time counts from the moment in which
// somebody asks for the deadline: that is soon, for such a handler is quick.
func (c *requestContext) fixDeadline() {
	if c.timeout > 0 && c.deadline.Load() == 0 {
		c.deadline.CompareAndSwap(0, int64(after(monotonic(), c.timeout)))
	}
}

// Deadline implements context.Context.
func (c *requestContext) Deadline() (time.Time, bool) {
	if c.timeout <= 0 {
		return time.Time{}, false
	}
	c.fixDeadline()
	return processStart.Add(time.Duration(c.deadline.Load())), true
}

// Done implements context.Context.
func (c *requestContext) Done() <-chan struct{} { return c.inner().Done() }

// Err implements context.Context.
func (c *requestContext) Err() error {
	switch r := c.real.Load(); {
	case r == ended:
		return c.reason()
	case r != nil:
		return r.Err()
	}
	if c.timeout > 0 {
		c.fixDeadline()
		if monotonic() >= time.Duration(c.deadline.Load()) {
			return context.DeadlineExceeded
		}
	}
	if caller := c.caller(); caller != nil && caller.Err() != nil {
		c.cancel(reasonOf(caller))
		return c.reason()
	}
	return c.session.baseCtx.Err()
}

// caller returns the context of the caller whose goroutine runs the handler, or nil: see direct.go.
func (c *requestContext) caller() context.Context {
	if x := c.exchange.Load(); x != nil {
		return x.caller
	}
	return nil
}

// reasonOf is what a cancel frame would say of the end of a caller's context.
func reasonOf(caller context.Context) byte {
	if caller.Err() == context.DeadlineExceeded {
		return drivers.ReasonDeadline
	}
	return drivers.ReasonGivenUp
}

// overdue reports whether the deadline has passed.
func (c *requestContext) overdue() bool {
	if c.timedOut.Load() {
		return true
	}
	deadline := c.deadline.Load()
	return deadline != 0 && monotonic() >= time.Duration(deadline)
}

func (c *requestContext) reason() error {
	if c.timedOut.Load() {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

// Value implements context.Context.
func (c *requestContext) Value(key any) any {
	if key == (ipc.IncomingKey{}) {
		return c
	}
	// Package context looks for its own contexts in this way, so that those that are
	// derived from c need no goroutine.
	if r := c.real.Load(); r != nil && r != ended {
		return r.Value(key)
	}
	return c.session.baseCtx.Value(key)
}

// cancel ends the context: the handler has returned, or its caller has given up.
func (c *requestContext) cancel(reason byte) {
	if reason == drivers.ReasonDeadline {
		c.timedOut.Store(true)
	}
	if c.real.Load() == nil && c.real.CompareAndSwap(nil, ended) {
		return
	}
	if r := c.real.Load(); r != ended {
		r.parent.end(c.reason())
		r.cancel()
	}
}

// inner returns the real context, and makes it if there is none.
func (c *requestContext) inner() context.Context {
	for {
		seen := c.real.Load()
		if seen != nil && seen != ended {
			return seen
		}
		r := &realContext{parent: &requestParent{Context: c.session.baseCtx, done: make(chan struct{})}}
		r.stop = context.AfterFunc(c.session.baseCtx, func() { r.parent.end(context.Canceled) })
		if caller := c.caller(); caller != nil {
			r.leave = context.AfterFunc(caller, func() { c.cancel(reasonOf(caller)) })
		}
		if deadline, ok := c.Deadline(); ok {
			r.Context, r.release = context.WithDeadline(r.parent, deadline)
		} else {
			r.Context, r.release = context.WithCancel(r.parent)
		}
		if seen == ended {
			r.parent.end(c.reason())
			r.cancel()
		}
		if c.real.CompareAndSwap(seen, r) {
			return r
		}
		r.parent.end(context.Canceled)
		r.cancel()
	}
}

// realContext is a context of package context, whose parent can be ended for either
// reason.
type realContext struct {
	context.Context
	parent  *requestParent
	stop    func() bool
	leave   func() bool // the context of a caller in this process, or nil
	release context.CancelFunc
}

// cancel frees what the context holds. Its parent has ended.
func (r *realContext) cancel() {
	r.stop()
	if r.leave != nil {
		r.leave()
	}
	r.release()
}

// requestParent is the parent of one real context. It ends with the error that it is
// told, which those of package context cannot.
type requestParent struct {
	context.Context // of the session, for its values
	done            chan struct{}

	mu  sync.Mutex
	err error
	f   func() // what the real context wants to be called with the end
}

// Done implements context.Context.
func (p *requestParent) Done() <-chan struct{} { return p.done }

// Err implements context.Context.
func (p *requestParent) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// AfterFunc makes package context call f, which ends the real context, rather than
// start a goroutine that waits for Done. It is called once.
func (p *requestParent) AfterFunc(f func()) (stop func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		go f()
		return func() bool { return false }
	}
	p.f = f
	return func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		waiting := p.f != nil
		p.f = nil
		return waiting
	}
}

// end ends the parent, and with it the real context. Only the first call counts.
func (p *requestParent) end(err error) {
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return
	}
	p.err = err
	close(p.done)
	f := p.f
	p.f = nil
	p.mu.Unlock()
	if f != nil {
		f()
	}
}

// CallerOf returns a caller for the process whose request ctx, the context of a
// handler, belongs to. It returns nil for any other context.
func CallerOf(ctx context.Context) ipc.Caller {
	c, ok := ctx.Value(ipc.IncomingKey{}).(*requestContext)
	switch {
	case !ok:
		return nil
	case c.session.config.Chain.Calls():
		return chain.Caller{Chain: c.session.config.Chain, Link: handlerCaller{c}, Peer: c.session.peer}
	}
	return handlerCaller{c}
}

// ArenaOf returns the arena for buffers of the handler whose context ctx is or is derived from, or
// nil.
func ArenaOf(ctx context.Context) *ipc.Arena {
	c, ok := ctx.Value(ipc.IncomingKey{}).(*requestContext)
	if !ok || c.session.config.Arena == nil {
		return nil
	}
	return c.session.config.Arena()
}

// handlerCaller makes the calls of one handler over the link that its request came
// over. The session knows by it that the handler waits for a call of its own.
type handlerCaller struct{ from *requestContext }

var (
	_ ipc.Starter      = handlerCaller{}
	_ ipc.Batcher      = handlerCaller{}
	_ ipc.StreamCaller = handlerCaller{}
)

// Codec implements [ipc.Caller].
func (c handlerCaller) Codec() ipc.Codec { return c.from.session.Codec() }

// Invoke implements [ipc.Caller].
func (c handlerCaller) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	return c.from.session.invoke(ctx, inv, request, memory, c.from)
}

// Start implements [ipc.Starter].
func (c handlerCaller) Start(ctx context.Context, inv *ipc.Invocation, request, memory []byte) (ipc.Pending, error) {
	return c.from.session.start(ctx, inv, request, memory, nil, c.from)
}

// OpenStream implements [ipc.StreamCaller].
func (c handlerCaller) OpenStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	return c.from.session.openStream(ctx, inv, o, c.from)
}

// Batch implements [ipc.Batcher].
func (c handlerCaller) Batch(ctx context.Context, f func(ipc.Caller) error) error {
	return c.from.session.batch(ctx, f, c.from)
}

// tracked knows the requests that a cancel frame can reach: all but the one that the
// present background reader runs, for while it does nobody reads.
type tracked struct {
	mu   sync.Mutex
	byTx map[uint64]*requestContext
}

func (t *tracked) add(c *requestContext) {
	t.mu.Lock()
	if t.byTx == nil {
		t.byTx = make(map[uint64]*requestContext)
	}
	t.byTx[c.tx] = c
	t.mu.Unlock()
}

func (t *tracked) remove(c *requestContext) {
	t.mu.Lock()
	if t.byTx[c.tx] == c {
		delete(t.byTx, c.tx)
	}
	t.mu.Unlock()
}

// cancel ends the context of a request, and returns false if that is not known.
func (t *tracked) cancel(tx uint64, reason byte) bool {
	t.mu.Lock()
	c := t.byTx[tx]
	t.mu.Unlock()
	if c != nil {
		c.cancel(reason)
	}
	return c != nil
}

func (t *tracked) has(tx uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byTx[tx] != nil
}
