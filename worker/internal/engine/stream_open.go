package engine

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/retry"
)

// OpenStream implements [ipc.StreamCaller].
func (s *Session) OpenStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	return s.openStream(ctx, inv, o, nil)
}

// openStream is OpenStream for the handler whose context is from, or nil.
func (s *Session) openStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening, from *requestContext) (ipc.Stream, error) {
	stop, late := func() {}, error(context.DeadlineExceeded)
	if inv.Timeout > 0 {
		ours := TimedOut(inv.Method.Name, inv.Timeout)
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > inv.Timeout {
			late = ours
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, inv.Timeout, ours)
		stop = cancel
	}
	st, err := s.open(ctx, inv, o, from, late)
	if err != nil {
		if ctx.Err() != nil {
			err = endOf(ctx)
		}
		stop()
		return nil, err
	}
	if ctx.Done() != nil {
		unwatch := context.AfterFunc(ctx, func() {
			st.abandon(endOf(ctx))
			st.dropUnread(endOf(ctx))
		})
		st.watched(func() { unwatch(); stop() })
	}
	return st, nil
}

// watched notes how to free what watches the stream's context.
func (st *Stream) watched(stop func()) {
	st.mu.Lock()
	over := st.over && !st.in.keepsAttached()
	if !over {
		st.stop = stop
	}
	st.mu.Unlock()
	if over {
		stop()
	}
}

// endOf returns why a stream ends whose context has ended: its own timeout ran out, or what
// the context says.
func endOf(ctx context.Context) error {
	var timeout *ipc.TimeoutError
	if cause := context.Cause(ctx); errors.As(cause, &timeout) {
		return cause
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return context.DeadlineExceeded // its timer has not fired yet
}

// open opens a stream, and sends its first item if there is one. late is the error of a stream
// whose context has a deadline that has passed.
func (s *Session) open(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening, from *requestContext, late error) (*Stream, error) {
	deliver(nil, inv) // there may be some of another stream
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	meta, err := metaOf(inv)
	if err != nil {
		return nil, err
	}
	var remaining time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		if remaining = time.Until(deadline); remaining <= 0 {
			return nil, late
		}
	}
	t := &s.streams
	if err := t.places.reserve(ctx, s.lifetime.done, 1); err != nil {
		return nil, s.notOpened(ctx, err)
	}
	st := &Stream{session: s, call: inv, ctx: ctx, from: from, late: late, lasting: o.Lasting}
	st.init(drivers.InitialStreamWindow)
	if err := t.add(st, s.config.Side); err != nil {
		t.places.cancel(1)
		return nil, retry.NotSent(s.update(err))
	}
	opening := drivers.Opening{Window: st.in.limit}
	var first []byte // that is sent with the opening
	if span := drivers.ItemSpan(len(o.First)); o.First != nil && o.Attached.Empty() && span <= min(drivers.InitialStreamWindow, s.maxPayload-drivers.OpeningHeader) {
		first, opening.Sent, st.out.sent = o.First, o.Only, int64(span)
	}
	b := gatherBuffers.Get().(*gatherBuffer)
	b.b = drivers.AppendOpening(b.b[:0], &opening)
	if first != nil {
		b.b = drivers.AppendItem(b.b, first)
	}
	f := &st.out.frame
	*f = drivers.Frame{Kind: drivers.KindOpen, Tx: st.tx, Method: inv.Method.ID, Remaining: remaining, Payload: b.b, Meta: meta}
	err = s.link.Send(ctx, f)
	*f = drivers.Frame{Kind: drivers.KindItems, Tx: st.tx}
	gatherBuffers.Put(b)
	if err != nil {
		t.mu.Lock()
		_, known := t.own[st.tx]
		delete(t.own, st.tx)
		t.mu.Unlock()
		if known {
			t.places.cancel(1)
		}
		return nil, s.notOpened(ctx, err)
	}
	st.out.closed = opening.Sent
	if err := st.wasOpened(); err != nil {
		return nil, err
	}
	if o.First != nil && first == nil { // it is large, or has attachments
		if err = st.SendAttached(ctx, o.First, o.Attached); err == nil && o.Only {
			err = st.CloseSend(ctx)
		}
		if err != nil && (ctx.Err() != nil || st.ended() == nil) { // otherwise Receive tells how it has ended
			st.abandon(err)
			return nil, err
		}
	}
	st.notify(o.OnEnd)
	return st, nil
}

// wasOpened notes that the peer knows of the stream. If that was given up before it tells the
// peer so, and returns why.
func (st *Stream) wasOpened() error {
	st.mu.Lock()
	st.opened = true
	early := st.early
	st.mu.Unlock()
	if !early {
		return nil
	}
	st.sendGivenUp(drivers.EndGivenUp)
	return st.ended()
}

// notify makes the stream call onEnd when it is over.
func (st *Stream) notify(onEnd func(error)) {
	if onEnd == nil {
		return
	}
	st.mu.Lock()
	over, err := st.over, st.err
	st.onEnd = onEnd
	st.mu.Unlock()
	if over {
		onEnd(withoutEOF(err))
	}
}

// withoutEOF returns nil for the end of a stream whose handler has not failed.
func withoutEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// notOpened is the error of a stream that could not be opened because of err.
func (s *Session) notOpened(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return retry.NotSent(s.whyUnsent(ctx, err))
}
