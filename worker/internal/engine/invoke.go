package engine

import (
	"context"
	"errors"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/retry"
)

// Invoke makes one call, or sends one notification.
func (s *Session) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	return s.invoke(ctx, inv, request, memory, nil)
}

// invoke is Invoke for the handler whose context is from, or nil.
func (s *Session) invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte, from *requestContext) ([]byte, error) {
	if inv.OneWay {
		return nil, s.notify(ctx, inv, request)
	}
	if h := s.direct(inv, request); h != nil {
		return s.invokeDirect(ctx, inv, h, request, memory)
	}
	c, timeout, err := s.sendRequest(ctx, inv, request, memory, nil)
	if err != nil {
		return nil, err
	}
	if s.config.Resumer == nil {
		return s.finishCall(ctx, c, timeout, inv, from)
	}
	key := CallKey{s.number, c.tx}
	var deadline time.Duration
	if timeout > 0 {
		deadline = c.deadlineOf(timeout)
	}
	response, err := s.finishCall(ctx, c, timeout, inv, from)
	if err != nil && s.resumable(err) {
		return s.resume(ctx, key, inv, memory, timeout, deadline)
	}
	return response, err
}

// timeoutOf returns the timeout of a call, 0 for none.
func (s *Session) timeoutOf(inv *ipc.Invocation) time.Duration {
	if inv.Timeout == ipc.DefaultTimeout {
		return s.config.Timeout
	}
	return inv.Timeout
}

// notify sends a notification.
func (s *Session) notify(ctx context.Context, inv *ipc.Invocation, request []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := sendContexts.Get().(*sendContext)
	defer sendContexts.Put(c)
	f := &c.frame
	f.Kind, f.Tx, f.Method, f.Remaining, f.Payload = drivers.KindNotify, 0, inv.Method.ID, 0, request
	if len(inv.Metadata) > 0 {
		meta, err := metaOf(inv)
		if err != nil {
			f.Payload = nil
			return err
		}
		f.Meta = meta
	}
	if inv.Attached != nil {
		if err := s.attach(f, inv.Attached); err != nil {
			f.Payload, f.Meta = nil, nil
			return err
		}
	}
	return retry.NotSent(s.send(ctx, c, s.timeoutOf(inv), inv.Method.Name, &s.notificationWindow))
}

// sendRequest sends the request of a call, or gathers it in b if there is one. The call
// then has to be finished or abandoned.
func (s *Session) sendRequest(ctx context.Context, inv *ipc.Invocation, request, memory []byte, b *batch) (c *call, timeout time.Duration, err error) {
	timeout = s.timeoutOf(inv)
	remaining, err := s.remaining(ctx, timeout)
	if err != nil {
		return nil, 0, err
	}
	var meta *drivers.Metadata
	if len(inv.Metadata) > 0 {
		if meta, err = metaOf(inv); err != nil {
			return nil, 0, err
		}
	}
	c, tx, err := s.calls.register(memory)
	if err != nil {
		return nil, 0, retry.NotSent(s.update(err))
	}
	f := &c.send.frame
	f.Kind, f.Tx, f.Method, f.Remaining, f.Payload = drivers.KindRequest, tx, inv.Method.ID, remaining, request
	if meta != nil {
		f.Meta = meta
	}
	if inv.Attached != nil {
		err = s.attach(f, inv.Attached)
	}
	if err != nil {
		c.send.release()
	} else if b != nil {
		err = b.gather(ctx, inv, f)
		f.Payload = nil // it is not ours
		if meta != nil || inv.Attached != nil {
			f.Meta, f.Handles, f.Attached = nil, nil, nil
		}
	} else {
		err = s.send(ctx, &c.send, timeout, inv.Method.Name, &s.requestWindow)
		if d := c.send.deadline; d != 0 {
			c.deadline.Store(int64(d)) // the time that sending took counts
		}
	}
	if err != nil {
		if !c.giveUp() && c.err != nil {
			err = c.err
		}
		s.calls.release(c)
		return nil, 0, retry.NotSent(err)
	}
	return c, timeout, nil
}

// remaining returns how long a call may take, as its request says it: 0 if that is
// what both sides have agreed on.
func (s *Session) remaining(ctx context.Context, timeout time.Duration) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	remaining := timeout
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		if left <= 0 {
			return 0, context.DeadlineExceeded // its timer has not fired yet
		}
		if timeout <= 0 || left < timeout {
			remaining = left
		}
	}
	switch remaining {
	case s.config.AgreedTimeout:
		return 0, nil
	case 0:
		return noTimeout, nil
	}
	return remaining, nil
}

// finishCall waits for the result of a call.
func (s *Session) finishCall(ctx context.Context, c *call, timeout time.Duration, inv *ipc.Invocation, from *requestContext) ([]byte, error) {
	if err := s.await(ctx, c, timeout, from); err != nil {
		s.drop(c, nil, err)
		if errors.Is(err, ErrTimeout) {
			return nil, TimedOut(inv.Method.Name, timeout)
		}
		return nil, err
	}
	response, err := s.takeResult(c, inv)
	if err != nil {
		err = ownTimeout(ctx, err, &inv.Method, timeout)
	}
	return response, err
}

// ownTimeout returns the error of a call that has failed with err. If that says that the
// handler has found the call's deadline to have passed, sooner than this side, the call
// ends as if this side had found it.
func ownTimeout(ctx context.Context, err error, m *ipc.MethodInfo, timeout time.Duration) error {
	if !isOverdue(err) {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return TimedOut(m.Name, timeout)
}

// isOverdue reports whether err says that a handler has found its deadline to have passed.
func isOverdue(err error) bool {
	var e *ipc.Error
	return errors.As(err, &e) && e.Details[detailOverdue] != ""
}

// takeResult returns the result of a call that has ended, and frees the call.
func (s *Session) takeResult(c *call, inv *ipc.Invocation) ([]byte, error) {
	response, err := c.response, c.err
	deliver(c.meta, inv)
	c.giveAttached(inv)
	s.calls.release(c)
	if err != nil {
		return nil, nameMethod(err, &inv.Method)
	}
	return response, nil
}

// drop frees a call that was given up because of err, and tells the peer, unless its
// request is still in b, which may be nil.
func (s *Session) drop(c *call, b *batch, err error) {
	tx := c.tx
	s.calls.release(c)
	reason := drivers.ReasonGivenUp
	if errors.Is(err, ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
		reason = drivers.ReasonDeadline
	}
	if b == nil {
		go s.sendCancel(tx, reason)
		return
	}
	withdrawn := func() bool {
		defer b.mu.unlock()
		return b.withdraw(tx)
	}
	if b.mu.tryLock() {
		if !withdrawn() {
			go s.sendCancel(tx, reason)
		}
		return
	}
	go func() { // the batch is being sent, and that may block
		if _ = b.mu.lock(context.Background(), nil, nil); !withdrawn() {
			s.sendCancel(tx, reason)
		}
	}()
}

// sendCancel tells the peer that nobody waits for the answer any more.
func (s *Session) sendCancel(tx uint64, reason byte) {
	ctx, cancel := context.WithTimeout(s.baseCtx, time.Second)
	defer cancel()
	// If it cannot be sent, the answer will come late and be dropped.
	f := drivers.Frame{Kind: drivers.KindCancel, Tx: tx, Payload: []byte{reason}}
	if s.config.Resumer == nil {
		_ = s.link.Send(ctx, &f)
		return
	}
	if k := (CallKey{s.number, tx}); !s.trySendCancel(ctx, tx, k, f) {
		s.config.Resumer.Forget(s, k)
	}
}

// trySendCancel sends the frames that cancel the call k, which have this tx. It returns false if the caller has to see to it that k is cancelled
// over the next link: they were not sent, and the end of the session does not see to that.
func (s *Session) trySendCancel(ctx context.Context, tx uint64, k CallKey, frames ...drivers.Frame) bool {
	if !s.cancels.note(tx, k) {
		return false
	}
	for i := range frames {
		if s.link.Send(ctx, &frames[i]) != nil {
			return !s.cancels.answered(tx)
		}
	}
	return true
}

// send sends the request or notification in c.frame within ctx and timeout, for which it
// uses c, and when w has room for it. If the link has ended send fails with the session's error.
func (s *Session) send(ctx context.Context, c *sendContext, timeout time.Duration, method string, w *sendWindow) error {
	bound := c.bind(ctx, timeout)
	cost := costOf(&c.frame)
	err := w.reserve(bound, s.lifetime.done, cost)
	if err == nil {
		if err = s.link.Send(bound, &c.frame); err != nil {
			w.cancel(cost)
		}
	}
	ranOut := c.release()
	switch {
	case err == nil:
		return nil
	case ranOut && ctx.Err() == nil:
		return TimedOut(method, timeout)
	}
	return s.whyUnsent(ctx, err)
}

// whyUnsent turns an error of the link's Send into what a caller gets. If the link has
// ended, that is the session's error, which says more.
func (s *Session) whyUnsent(ctx context.Context, err error) error {
	var tooLarge *ipc.SizeError
	var file *drivers.AttachError
	switch {
	case errors.As(err, &tooLarge), errors.As(err, &file):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	s.unsent(err)
	select {
	case <-s.lifetime.done:
		return s.update(s.lifetime.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// update brings the error of a session that has ended up to date.
func (s *Session) update(err error) error {
	if s.config.Latest == nil {
		return err
	}
	return s.config.Latest(err)
}
