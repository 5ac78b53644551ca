package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// handlerContext is the context of one handler. It makes a real one only when
// somebody waits for it, since most handlers are done before.
//
// Whoever was given a context may keep it, so it is not used again, save by handlers
// in place, who may not; but they are made by the dozen, see [session.newContext].
type handlerContext struct {
	session  *session
	handler  *handler
	tx       uint64
	deadline time.Time // zero if there is none

	// real is nil at first, then the real context, or ended.
	real atomic.Pointer[realContext]
}

type realContext struct {
	context.Context
	cancel context.CancelFunc
}

// ended stands for a real context that nobody needed before the end.
var ended = new(realContext)

// contextChunk is how many contexts are made at once: as many as fill a size of
// the allocator's.
const contextChunk = 32

// newContext returns a context without contents. It is called with the reader role.
func (s *session) newContext() *handlerContext {
	if len(s.contexts) == 0 {
		s.contexts = make([]handlerContext, contextChunk)
	}
	c := &s.contexts[0]
	s.contexts = s.contexts[1:]
	return c
}

// Deadline implements context.Context.
func (c *handlerContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

func (c *handlerContext) inner() context.Context {
	for {
		seen := c.real.Load()
		if seen != nil && seen != ended {
			return seen
		}
		r := new(realContext)
		if c.deadline.IsZero() {
			r.Context, r.cancel = context.WithCancel(c.session.baseCtx)
		} else {
			r.Context, r.cancel = context.WithDeadline(c.session.baseCtx, c.deadline)
		}
		if seen == ended {
			r.cancel()
		}
		if c.real.CompareAndSwap(seen, r) {
			return r
		}
		r.cancel()
	}
}

// Done implements context.Context.
func (c *handlerContext) Done() <-chan struct{} { return c.inner().Done() }

// Err implements context.Context.
func (c *handlerContext) Err() error { return c.inner().Err() }

// Value implements context.Context.
func (c *handlerContext) Value(key any) any {
	if key == (sessionKey{}) {
		return c.session
	}
	return c.session.baseCtx.Value(key)
}

// cancel ends the context: the handler has returned, or its caller gave up.
func (c *handlerContext) cancel() {
	if c.real.Load() == nil && c.real.CompareAndSwap(nil, ended) {
		return
	}
	if r := c.real.Load(); r != ended {
		r.cancel()
	}
}

// running knows the handlers that a cancel frame can reach: all but the one that
// the present reader runs, for while it does nobody reads.
type running struct {
	mu   sync.Mutex
	byTx map[uint64]*handlerContext
}

func (r *running) add(c *handlerContext) {
	r.mu.Lock()
	if r.byTx == nil {
		r.byTx = make(map[uint64]*handlerContext)
	}
	r.byTx[c.tx] = c
	r.mu.Unlock()
}

func (r *running) remove(c *handlerContext) {
	r.mu.Lock()
	if r.byTx[c.tx] == c {
		delete(r.byTx, c.tx)
	}
	r.mu.Unlock()
}

// cancel ends the context of a handler, and returns false if it is not known.
func (r *running) cancel(tx uint64) bool {
	r.mu.Lock()
	c := r.byTx[tx]
	r.mu.Unlock()
	if c != nil {
		c.cancel()
	}
	return c != nil
}

func (r *running) has(tx uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byTx[tx] != nil
}
