package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/retry"
)

// run runs the handler of r, for all that its frame holds, and sends the answer. timed
// says to note how long it took; b is the background reader if that runs it.
func (s *Session) run(r *Request, timed bool, b *backgroundReader) {
	if r.packed.n > 0 {
		s.runPacked(r, timed, b)
	} else {
		s.runOne(r, timed, b)
	}
	if b == nil || !r.handler.InPlace {
		r.ctx.cancel(drivers.ReasonGivenUp)
	}
}

// runOne is run for one request or notification.
func (s *Session) runOne(r *Request, timed bool, b *backgroundReader) {
	var start time.Time
	if timed {
		start = time.Now()
	}
	response, failure := s.call(r)
	if timed {
		r.handler.took(time.Since(start))
	}
	if r.ctx.exchange.Load() != nil { // which a call would cost more to find out
		r.freezeMeta()
	}
	switch {
	case failure != nil:
		r.abort()
		if r.oneWay {
			s.config.Log.Warn("tandem: handler of a notification failed", "method", r.handler.Info.Name, "error", ipc.ParseError(failure))
		} else {
			s.answer(r.fail(failure))
		}
	case r.oneWay:
		r.abort()
	default:
		response, sent := r.commit(response)
		if r.reply != nil {
			if failure := r.attachReply(s, &response); failure != nil {
				s.answer(r.fail(failure))
				break
			}
		}
		switch {
		case sent:
		case b != nil:
			b.answer(s, r.respond(response))
		default:
			s.answer(r.respond(response))
		}
	}
	if r.owned {
		s.link.Recycle(r.payload)
	}
	if r.attached != nil || r.reply != nil {
		r.releaseAttached()
	}
}

// call calls the handler, unless its caller has given up. If that fails, or panics, or
// its error does, call returns the encoded error. If the handler ends its goroutine the
// caller gets an error, too.
func (s *Session) call(r *Request) (response, failure []byte) {
	returned := false
	defer func() {
		if returned {
			return
		}
		p := recover()
		failure = ipc.AppendError(nil, r.handler.crashed(p))
		if p == nil {
			r.ctx.cancel(drivers.ReasonGivenUp)
			r.abort()
			if !r.oneWay && !r.direct {
				r.freezeMeta()
				s.answer(r.fail(failure))
			}
			r.releaseAttached()
		}
	}()
	if r.background == nil {
		// It may have waited for its turn.
		if err := r.ctx.Err(); err != nil {
			returned = true
			if r.oneWay {
				s.dropped.note(s, err, 1)
				return nil, nil
			}
			return nil, r.failureOf(err)
		}
	}
	var err error
	if s.config.Chain.Handles() {
		response, err = s.intercept(r)
	} else {
		response, err = r.handler.Invoke(r)
	}
	if err != nil {
		failure = r.failureOf(err)
	}
	returned = true
	return response, failure
}

// crashed is the error of a run of h that has panicked with p, or has ended its goroutine if
// that is nil.
func (h *Handler) crashed(p any) error {
	message := "called runtime.Goexit"
	if p != nil {
		message = fmt.Sprintf("panicked: %v", p)
	}
	return &ipc.Error{
		Code:    ipc.CodeInternal,
		Message: fmt.Sprintf("the handler of %q %s", h.Info.Name, message),
		Stack:   string(debug.Stack()),
	}
}

// respond returns the frame of a response. It is a part of r, for a link would make any
// other escape to the heap.
func (r *Request) respond(response []byte) *drivers.Frame {
	f := &r.answer
	f.Kind, f.Tx, f.Payload = drivers.KindResponse, r.tx, response
	return f
}

// fail is respond for an error.
func (r *Request) fail(failure []byte) *drivers.Frame {
	f := r.respond(failure)
	f.Kind, f.Handles, f.Attached = drivers.KindError, nil, nil
	return f
}

// freezeMeta gives the frame of the answer the metadata that the handler has set.
func (r *Request) freezeMeta() {
	if x := r.ctx.exchange.Load(); x != nil {
		r.answer.Meta = x.freeze()
	}
}

// detailOverdue is in the error of a handler that has ended because its deadline, which is
// the caller's, has passed.
const detailOverdue = "tandem.overdue"

// failureCanceled is encoded once. When a link ends, all requests that wait for their turn
// fail so, and a peer may have sent as many as its window takes.
var failureCanceled = ipc.AppendError(nil, context.Canceled)

// failureOf encodes a handler's error. That may be the refusal of another worker, which
// the handler has called. Its caller must not take it for ours, and send again.
func (r *Request) failureOf(err error) []byte { return r.ctx.failureOf(err) }

func (c *requestContext) failureOf(err error) []byte {
	if err == context.Canceled {
		return failureCanceled
	}
	failure := ipc.AppendError(nil, err)
	overdue := errors.Is(err, context.DeadlineExceeded) && c.overdue()
	var e *ipc.Error
	foreign := errors.As(err, &e) && e != nil && (e.Details[retry.DetailDraining] != "" || e.Details[detailUnknownMethod] != "" || e.Details[detailOverdue] != "")
	if !foreign && !overdue {
		return failure
	}
	own := ipc.ParseError(failure)
	for _, detail := range []string{retry.DetailDraining, detailUnknownMethod, detailHandlers, detailOverdue} {
		delete(own.Details, detail)
	}
	if overdue {
		if own.Details == nil {
			own.Details = make(map[string]string)
		}
		own.Details[detailOverdue] = "1"
	}
	return ipc.AppendError(nil, own)
}

// answer sends a response or an error. Nothing but the end of the link can keep it from
// arriving.
func (s *Session) answer(f *drivers.Frame) {
	err := s.transmit(f)
	switch {
	case err == nil:
	case s.replay != nil && errors.Is(err, ipc.ErrDisconnected):
		if f.Attached != nil { // which are released soon
			f = &drivers.Frame{Kind: drivers.KindError, Tx: f.Tx, Payload: ipc.AppendError(nil, errNotKept)}
		}
		s.replay.keep(callID{s.linkID(), f.Tx}, f)
	case s.baseCtx.Err() == nil:
		s.unsent(err)
	}
}

// transmit sends an answer, or, if that is too large for the link or has a file that cannot be
// passed, says so.
func (s *Session) transmit(f *drivers.Frame) error {
	err := s.link.Send(s.baseCtx, f)
	if err == nil {
		return nil
	}
	var tooLarge *ipc.SizeError
	var file *drivers.AttachError
	if errors.As(err, &file) || errors.As(err, &tooLarge) {
		err = s.link.Send(s.baseCtx, &drivers.Frame{Kind: drivers.KindError, Tx: f.Tx, Payload: ipc.AppendError(nil, unsendable(err))})
	}
	return err
}

// unsendable is what a caller gets whose response the link does not take, because of err.
func unsendable(err error) error {
	code := ipc.CodeInternal
	if ipc.CodeOf(err) == ipc.CodeResourceExhausted {
		code = ipc.CodeResourceExhausted
	}
	return ipc.Errorf(code, "the response cannot be sent: %w", err)
}
