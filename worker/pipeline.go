package worker

import (
	"context"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// started is what a call in flight that nobody may be waiting for needs besides. It
// is a part of its call.
type started struct {
	session *session
	call    *call
	ctx     context.Context
	limit   time.Duration
	method  ipc.MethodInfo
	batch   *batch // in which its request may still be, or nil
}

// Start implements [ipc.Starter].
func (s *session) Start(ctx context.Context, inv ipc.Invocation) (ipc.Pending, error) {
	return s.start(ctx, &inv, nil)
}

func (s *session) start(ctx context.Context, inv *ipc.Invocation, b *batch) (ipc.Pending, error) {
	c, limit, err := s.begin(ctx, inv, b)
	if err != nil {
		return nil, err
	}
	if limit > 0 {
		c.deadlineOf(limit) // time passes also while nobody waits
	}
	c.started = started{session: s, call: c, ctx: ctx, limit: limit, method: inv.Method, batch: b}
	c.idle.Store(true)
	return &c.started, nil
}

// Wait implements [ipc.Pending].
func (p *started) Wait() ([]byte, error) {
	if p.batch != nil {
		// If that fails so does the call.
		_ = p.batch.flush(p.ctx)
	}
	p.call.idle.Store(false)
	ctx := p.ctx
	p.ctx, p.batch = nil, nil // the call may be kept for long
	return p.session.finish(ctx, p.call, p.limit, p.method)
}

// Done implements [ipc.Pending].
func (p *started) Done() bool { return p.call.done() }

// Abandon implements [ipc.Pending].
func (p *started) Abandon() {
	b := p.batch
	p.ctx, p.batch = nil, nil
	if p.call.giveUp() && (b == nil || !b.withdraw(p.call.tx)) {
		p.session.drop(p.call)
		return
	}
	p.session.calls.remove(p.call)
}
