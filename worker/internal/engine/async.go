package engine

import (
	"context"
	"errors"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// asyncCall is what a call in flight that nobody may be waiting for needs besides. It is
// a part of its call.
type asyncCall struct {
	session *Session
	call    *call
	ctx     context.Context // of the whole call
	timeout time.Duration
	inv     *ipc.Invocation
	batch   *batch          // in which its request may still be, or nil
	from    *requestContext // of the handler that makes the call, or nil
}

// Start implements [ipc.Starter].
func (s *Session) Start(ctx context.Context, inv *ipc.Invocation, request, memory []byte) (ipc.Pending, error) {
	return s.start(ctx, inv, request, memory, nil, nil)
}

func (s *Session) start(ctx context.Context, inv *ipc.Invocation, request, memory []byte, b *batch, from *requestContext) (ipc.Pending, error) {
	c, timeout, err := s.sendRequest(ctx, inv, request, memory, b)
	if err != nil {
		return nil, err
	}
	if timeout > 0 {
		c.deadlineOf(timeout) // time passes also while nobody waits
	}
	c.async = asyncCall{session: s, call: c, ctx: ctx, timeout: timeout, inv: inv, batch: b, from: from}
	c.unattended.Store(true)
	return &c.async, nil
}

// Wait implements [ipc.Pending].
func (a *asyncCall) Wait(ctx context.Context) (response []byte, over bool, err error) {
	s, c := a.session, a.call
	if err := ctx.Err(); err != nil && !c.done() {
		return nil, false, err
	}
	if a.batch != nil && !c.done() {
		// If the request cannot be sent the call fails. If a context ends it stays
		// gathered.
		_ = a.batch.flush(ctx, a.ctx, c)
	}
	c.unattended.Store(false)
	c.also = a.ctx
	err = s.await(ctx, c, a.timeout, a.from)
	if waitEnded, ok := err.(*waitEndedError); ok { // errors.As would cost memory
		c.unattended.Store(true)
		return nil, false, waitEnded.error
	}
	inv, timeout, b, callCtx := a.inv, a.timeout, a.batch, a.ctx
	*a = asyncCall{session: s, call: c} // the call may be kept for long
	if err == nil {
		if response, err = s.takeResult(c, inv); err != nil {
			err = ownTimeout(callCtx, err, &inv.Method, timeout)
		}
		return response, true, err
	}
	s.drop(c, b, err)
	if errors.Is(err, ErrTimeout) {
		err = TimedOut(inv.Method.Name, timeout)
	}
	return nil, true, err
}

// Done implements [ipc.Pending].
func (a *asyncCall) Done() bool { return a.call.done() }

// Abandon implements [ipc.Pending].
func (a *asyncCall) Abandon() {
	s, c, b := a.session, a.call, a.batch
	*a = asyncCall{session: s, call: c}
	if c.giveUp() {
		s.drop(c, b, context.Canceled)
	} else {
		s.calls.release(c)
	}
}
