package worker

import (
	"context"
	"sync/atomic"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/chain"
	"github.com/tandemipc/tandem/worker/internal/engine"
	"github.com/tandemipc/tandem/worker/internal/memory"
	"github.com/tandemipc/tandem/worker/internal/retry"
)

// caller is what the clients of workers and of services have in common: it makes calls over
// the present session, and if need be over later ones.
type caller struct {
	Handlers

	settings *Settings
	chain    *chain.Chain         // of the interceptors, nil if there are none
	now      atomic.Pointer[life] // the present one, or the last
	// persists: calls that were not sent, or may be sent again, wait for the next session.
	persists   bool
	notRetried retry.Notice
	memory     *memory.Keeper

	closing atomic.Bool
	ctx     context.Context // ends when the client is closed
	stop    context.CancelFunc
	gaveUp  atomic.Pointer[error] // why there will be no further life
}

// life is that of one peer, as calls see it: one session after the other.
type life struct {
	session atomic.Pointer[engine.Session] // the present one, or the last
	after   chan struct{}                  // closed when the next life has begun, or there will be none
}

func (c *caller) init(s *Settings) {
	c.settings, c.chain = s, chain.New(s.Interceptors)
	if c.memory = s.Memory; c.memory == nil {
		c.memory = new(memory.Keeper)
		c.memory.Init(s.Arena, s.Logger)
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
}

// Active reports whether calls are sent at once: the client is connected, and nobody
// closes it.
func (c *caller) Active() bool { return !c.closing.Load() && c.Connected() }

// Connected reports whether there is a link to the worker.
func (c *caller) Connected() bool { return !c.session().Failing() }

// Invoke calls a method with an encoded request. It is what [ipc.Method.Call]
// is built on.
func (c *caller) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	if c.closing.Load() {
		return nil, ipc.ErrClosed
	}
	if c.chain.Calls() {
		return c.intercepted(ctx, inv, request, memory)
	}
	if c.persists {
		return c.persist(ctx, inv, request, memory)
	}
	return c.session().Invoke(ctx, inv, request, memory)
}

// Start is the first half of Invoke: it returns when the request was sent. It is what
// [ipc.Method.Go] is built on. A started call belongs to the present link. If the link
// ends the call fails, even with [WithRetry] or [WithResume].
func (c *caller) Start(ctx context.Context, inv *ipc.Invocation, request, memory []byte) (ipc.Pending, error) {
	if c.closing.Load() {
		return nil, ipc.ErrClosed
	}
	if c.chain.Calls() {
		return c.interceptor().Start(ctx, inv, request, memory)
	}
	return c.session().Start(ctx, inv, request, memory)
}

// Batch calls f with a caller that sends requests together: see [ipc.Batch]. They belong
// to the present link, as with [Client.Start].
func (c *caller) Batch(ctx context.Context, f func(ipc.Caller) error) error {
	if c.closing.Load() {
		return ipc.ErrClosed
	}
	if c.chain.Calls() {
		return c.interceptor().Batch(ctx, f)
	}
	return c.session().Batch(ctx, f)
}

// OpenStream opens a stream of encoded items. It is what the Open methods of streams are built
// on. A stream belongs to the present link, and ends with it. If there is none, and the worker
// is started again ([WithRestart]), OpenStream waits for the next.
func (c *caller) OpenStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	if c.closing.Load() {
		return nil, ipc.ErrClosed
	}
	if c.chain.Calls() {
		return c.interceptedStream(ctx, inv, o)
	}
	if c.persists {
		return c.persistStream(ctx, inv, o)
	}
	return c.session().OpenStream(ctx, inv, o)
}

// handlers are the client's own, or those of its pool.
func (c *caller) handlers() *engine.Registry {
	if c.settings.Handlers != nil {
		return c.settings.Handlers.handlers()
	}
	return c.Handlers.handlers()
}

// LateResponses returns how many answers have come over the present link after their
// callers had given up, or as errors after this side had ended the link.
func (c *caller) LateResponses() uint64 { return c.session().LateResponses() }

// session is the present one, or the last.
func (c *caller) session() *engine.Session { return c.now.Load().session.Load() }
