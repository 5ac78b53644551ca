package worker

import (
	"context"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// started is what a call in flight, that nobody may be waiting for, needs besides. It
// is a part of its call.
type started struct {
	session *session
	call    *call
	ctx     context.Context
	limit   time.Duration
	method  ipc.MethodInfo
	more    bool // its request may not have left yet
}

var _ ipc.Batcher = (*session)(nil)

// Start implements [ipc.Starter].
func (s *session) Start(ctx context.Context, inv ipc.Invocation) (ipc.Pending, error) {
	return s.start(ctx, &inv, false)
}

func (s *session) start(ctx context.Context, inv *ipc.Invocation, more bool) (ipc.Pending, error) {
	c, limit, err := s.begin(ctx, inv, more)
	if err != nil {
		return nil, err
	}
	if limit > 0 {
		c.deadlineOf(limit) // time passes also while nobody waits
	}
	c.started = started{session: s, call: c, ctx: ctx, limit: limit, method: inv.Method, more: more}
	return &c.started, nil
}

// Wait implements [ipc.Pending].
func (p *started) Wait() ([]byte, error) {
	if p.more && !p.call.done() {
		// If that fails the call does, too, or ends as its context and limit say.
		_ = p.session.link.Flush(p.ctx)
	}
	ctx := p.ctx
	p.ctx = nil // the call may be kept for long
	return p.session.finish(ctx, p.call, p.limit, p.method)
}

// Done implements [ipc.Pending].
func (p *started) Done() bool { return p.call.done() }

// Abandon implements [ipc.Pending].
func (p *started) Abandon() {
	p.ctx = nil
	if p.call.giveUp() {
		p.session.drop(p.call)
		return
	}
	p.session.calls.remove(p.call)
}

// Batch implements [ipc.Batcher].
func (s *session) Batch(ctx context.Context, f func(ipc.Caller) error) error {
	err := f(batch{s})
	if sent := s.link.Flush(ctx); err == nil && sent != nil {
		s.unsent(sent)
		return sent
	}
	return err
}

// batch is a session whose requests wait for each other.
type batch struct{ *session }

// Invoke implements [ipc.Caller]. A call that is waited for sends all before it.
func (b batch) Invoke(ctx context.Context, inv ipc.Invocation) ([]byte, error) {
	if inv.OneWay {
		return nil, b.notify(ctx, &inv, true)
	}
	return b.session.Invoke(ctx, inv)
}

// Start implements [ipc.Starter].
func (b batch) Start(ctx context.Context, inv ipc.Invocation) (ipc.Pending, error) {
	return b.start(ctx, &inv, true)
}
