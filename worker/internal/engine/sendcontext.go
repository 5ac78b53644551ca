package engine

import (
	"context"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers"
)

// sendContext is a context that also ends when a timeout runs out, or other contexts
// end. Its timer starts when somebody first asks whether it has ended, that is, when a
// send blocks: on the fast path it costs nothing.
type sendContext struct {
	context.Context
	// frame is what is sent. It is here because a link would make any other escape to
	// the heap.
	frame   drivers.Frame
	others  [2]context.Context // nil where there are none
	timeout time.Duration      // 0 if there is none

	mu      sync.Mutex
	blocked context.Context // nil until a send blocks
	cancel  context.CancelFunc
	stops   [2]func() bool // of others
	// deadline is when the timeout runs out, by monotonic; 0 if no send has blocked.
	deadline time.Duration
}

var sendContexts = sync.Pool{New: func() any { return new(sendContext) }}

// bind returns ctx bounded by timeout, if there is one. release has to be called after
// the last use of what bind returns, and then c can be used anew.
func (c *sendContext) bind(ctx context.Context, timeout time.Duration) context.Context {
	c.deadline = 0
	if timeout <= 0 {
		return ctx
	}
	c.Context, c.timeout = ctx, timeout
	return c
}

// bindAll is bind for several contexts. Those of others may be nil.
func (c *sendContext) bindAll(ctx context.Context, others [2]context.Context, timeout time.Duration) context.Context {
	c.deadline = 0
	c.Context, c.others, c.timeout = ctx, others, timeout
	return c
}

// release frees what the context holds. ranOut says that the timeout ran out. Then
// deadline is when the time of the call ends, if a send has blocked and there is a
// timeout, and otherwise 0.
func (c *sendContext) release() (ranOut bool) {
	if c.cancel != nil {
		ranOut = c.deadline != 0 && c.Context.Err() == nil && c.blocked.Err() != nil && monotonic() >= c.deadline
		for i, stop := range c.stops {
			if stop != nil {
				stop()
				c.stops[i] = nil
			}
		}
		c.cancel()
		c.blocked, c.cancel = nil, nil
	}
	c.Context, c.frame.Payload = nil, nil
	if c.frame.Meta != nil {
		c.frame.Meta = nil
	}
	if c.frame.Handles != nil || c.frame.Attached != nil {
		c.frame.Handles, c.frame.Attached = nil, nil
	}
	if c.others[0] != nil {
		c.others = [2]context.Context{}
	}
	return ranOut
}

// start starts the timer if it has not been started.
func (c *sendContext) start() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocked != nil {
		return c.blocked
	}
	if c.timeout > 0 {
		c.deadline = after(monotonic(), c.timeout)
		c.blocked, c.cancel = context.WithDeadline(c.Context, processStart.Add(c.deadline))
	} else {
		c.blocked, c.cancel = context.WithCancel(c.Context)
	}
	for i, other := range c.others {
		if other != nil {
			c.stops[i] = context.AfterFunc(other, c.cancel)
		}
	}
	return c.blocked
}

// Done implements context.Context.
func (c *sendContext) Done() <-chan struct{} { return c.start().Done() }

// Err implements context.Context.
func (c *sendContext) Err() error { return c.start().Err() }

// Value implements context.Context.
func (c *sendContext) Value(key any) any { return c.start().Value(key) }

// Deadline implements context.Context.
func (c *sendContext) Deadline() (time.Time, bool) { return c.start().Deadline() }
