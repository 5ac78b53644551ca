package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// job is one request on its way through a handler.
type job struct {
	session *session
	handler *handler
	tx      uint64 // of the request, meaningless for a notification
	oneWay  bool
	ctx     *handlerContext
	request []byte
	// lent: request lies in memory of the link, which the peer may change at any
	// time. It has to be read once, or be copied first.
	lent    bool
	owned   bool    // request is nobody else's
	release func()  // gives that memory back, if it was held
	keeper  *keeper // that runs it, if one does
	// memory that request and response are put into
	in, out []byte
	place   InPlace
}

var jobs = sync.Pool{New: func() any { return new(job) }}

// maxKept bounds the buffers that wait for the next job.
const maxKept = 64 << 10

// clear makes j ready for the next request.
func (j *job) clear() {
	if cap(j.in) > maxKept {
		j.in = nil
	}
	if cap(j.out) > maxKept {
		j.out = nil
	}
	*j = job{in: j.in[:0], out: j.out[:0]}
}

// private returns the request in memory that nobody else changes.
func (j *job) private() []byte {
	if j.lent {
		j.in = append(j.in[:0], j.request...)
		j.request, j.lent = j.in, false
	}
	return j.request
}

// read is called when nobody needs the request any more, though the handler runs on.
func (j *job) read() {
	if j.keeper != nil {
		j.keeper.read(j.session)
	}
}

// take makes j the job of a request. It is called with the reader role, and
// copies nothing. c is a context that is free, or nil.
func (j *job) take(s *session, h *handler, f drivers.Frame, c *handlerContext) {
	j.session, j.handler, j.tx, j.oneWay = s, h, f.Tx, f.Kind == drivers.KindNotify
	if c == nil {
		c = s.newContext()
	}
	j.ctx = c
	c.session, c.handler, c.tx, c.deadline = s, h, f.Tx, time.Time{}
	if f.Remaining > 0 {
		c.deadline = time.Now().Add(f.Remaining)
	}
	j.request, j.owned, j.lent = f.Payload, f.Owned, !f.Owned
}

// maxRefusing bounds the refusals that wait to be sent. A peer that reads its
// answers has room for far more of them.
const maxRefusing = 1024

// refuse answers a request that is not handled.
func (s *session) refuse(f drivers.Frame, why error) {
	if f.Kind == drivers.KindNotify {
		s.log.Warn("tandem: notification dropped", "error", why)
		return
	}
	if s.refusing.Add(1) > maxRefusing {
		s.lost(fmt.Errorf("%w: the peer does not read the answers to %d requests that were refused: %w", ipc.ErrProtocol, maxRefusing, why))
		return
	}
	// Not here: the reader must not block.
	s.handling.Go(func() {
		defer s.refusing.Add(-1)
		refusal := drivers.Frame{Kind: drivers.KindError, Tx: f.Tx, Payload: ipc.AppendError(nil, why)}
		if f.Kind == drivers.KindResume {
			_ = s.transmit(refusal) // the host asks again
			return
		}
		s.answer(refusal)
	})
}

// detailDraining is in the error for a request that came too late to be run.
const detailDraining = "tandem.draining"

// The details of the error for an unknown method.
const (
	detailUnknownMethod = "tandem.unknown_method"
	detailHandlers      = "tandem.handlers"
)

// unknown is the error for a method that has no handler.
func (r *registry) unknown(id uint64) error {
	method, names := fmt.Sprintf("%#x", id), r.names()
	return &ipc.Error{
		Code:    ipc.CodeUnimplemented,
		Message: fmt.Sprintf("no handler for method %s; there are handlers for: %s", method, names),
		Details: map[string]string{detailUnknownMethod: method, detailHandlers: names},
	}
}

// nameMethod puts the method's name, which the other side cannot know, into
// its error for an unknown method.
func (s *session) nameMethod(err error, m ipc.MethodInfo) error {
	var e *ipc.Error
	if errors.As(err, &e) && e.Details[detailUnknownMethod] != "" {
		e.Message = fmt.Sprintf("no handler for method %q; there are handlers for: %s", m.Name, e.Details[detailHandlers])
	}
	return err
}

// dispatch runs the handler h of a request in a goroutine of its own. It is called
// with the reader role.
func (s *session) dispatch(h *handler, f drivers.Frame) {
	if err := s.active.begin(len(f.Payload)); err != nil {
		s.refuse(f, err)
		return
	}
	j := jobs.Get().(*job)
	j.take(s, h, f, nil)
	if !h.inPlace {
		j.private()
	}
	s.running.add(j.ctx)
	s.handling.Add(1)
	if !h.gate.enter(j) {
		return
	}
	if j.lent {
		j.release = s.link.Hold()
	}
	go j.runAlone()
}

// runAlone runs a dispatched job and frees it.
func (j *job) runAlone() {
	s, h, ctx, release, size := j.session, j.handler, j.ctx, j.release, len(j.request)
	watch := s.watchLease(h)
	defer func() { // also if the handler ends its goroutine
		watch.stop()
		if release != nil {
			release()
		}
		s.running.remove(ctx)
		s.active.end(size)
		if next := h.gate.leave(); next != nil {
			go next.runAlone()
		}
		s.handling.Done()
	}()
	s.run(j, true, nil)
	j.clear()
	jobs.Put(j)
}

// run runs the handler and sends the answer. timed says to note how long it took;
// k is the keeper if that runs it.
func (s *session) run(j *job, timed bool, k *keeper) {
	var start time.Time
	if timed {
		start = time.Now()
	}
	response, failure := s.call(j)
	if timed {
		j.handler.took(time.Since(start))
	}
	switch {
	case failure != nil:
		j.place.abort()
		if j.oneWay {
			s.log.Warn("tandem: handler of a notification failed", "method", j.handler.info.Name, "error", ipc.ParseError(failure))
		} else {
			s.answer(drivers.Frame{Kind: drivers.KindError, Tx: j.tx, Payload: failure})
		}
	case j.oneWay:
		j.place.abort()
	case j.place.commit(response):
	case k != nil:
		k.answer(s, drivers.Frame{Kind: drivers.KindResponse, Tx: j.tx, Payload: response})
	default:
		s.answer(drivers.Frame{Kind: drivers.KindResponse, Tx: j.tx, Payload: response})
	}
	if j.owned {
		s.link.Recycle(j.request)
	}
	if k == nil || !j.handler.inPlace {
		j.ctx.cancel()
	}
}

// call calls the handler. If that fails, or panics, or its error does, it returns
// the encoded error. If the handler ends its goroutine the caller gets an error, too.
func (s *session) call(j *job) (response, failure []byte) {
	returned := false
	defer func() {
		if returned {
			return
		}
		message := "called runtime.Goexit"
		p := recover()
		if p != nil {
			message = fmt.Sprintf("panicked: %v", p)
		}
		failure = ipc.AppendError(nil, &ipc.Error{
			Code:    ipc.CodeInternal,
			Message: fmt.Sprintf("the handler of %q %s", j.handler.info.Name, message),
			Stack:   string(debug.Stack()),
		})
		if p == nil {
			j.ctx.cancel()
			j.place.abort()
			if !j.oneWay {
				s.answer(drivers.Frame{Kind: drivers.KindError, Tx: j.tx, Payload: failure})
			}
		}
	}()
	response, err := j.handler.invoke(j)
	if err != nil {
		failure = failureOf(err)
	}
	returned = true
	return response, failure
}

// failureOf encodes a handler's error. That may be the refusal of another worker, which
// the handler has called; its caller must not take it for ours, and send again.
func failureOf(err error) []byte {
	failure := ipc.AppendError(nil, err)
	var e *ipc.Error
	if !errors.As(err, &e) || e == nil || e.Details[detailDraining] == "" && e.Details[detailUnknownMethod] == "" {
		return failure
	}
	own := ipc.ParseError(failure)
	for _, detail := range []string{detailDraining, detailUnknownMethod, detailHandlers} {
		delete(own.Details, detail)
	}
	return ipc.AppendError(nil, own)
}

// answer sends a response or an error. The link's end is the only thing that
// can keep it from arriving.
func (s *session) answer(f drivers.Frame) {
	err := s.transmit(f)
	switch {
	case err == nil:
	case s.afterlife != nil && errors.Is(err, ipc.ErrDisconnected):
		s.afterlife.answer(callID{s.linkID(), f.Tx}, f)
	case s.baseCtx.Err() == nil:
		s.unsent(err)
	}
}

// transmit sends an answer, or, if that is too large for the link, says so.
func (s *session) transmit(f drivers.Frame) error {
	err := s.link.Send(s.baseCtx, f)
	if err == nil {
		return nil
	}
	var tooLarge *ipc.SizeError
	if errors.As(err, &tooLarge) {
		// Too large for the link, which the caller must learn.
		e := ipc.Errorf(ipc.CodeResourceExhausted, "the response cannot be sent: %w", err)
		err = s.link.Send(s.baseCtx, drivers.Frame{Kind: drivers.KindError, Tx: f.Tx, Payload: ipc.AppendError(nil, e)})
	}
	return err
}

// sendCancel tells the peer that nobody waits for the answer any more.
func (s *session) sendCancel(tx uint64) {
	ctx, cancel := context.WithTimeout(s.baseCtx, time.Second)
	defer cancel()
	// If it cannot be sent, the answer will come late and be dropped.
	if err := s.link.Send(ctx, drivers.Frame{Kind: drivers.KindCancel, Tx: tx}); err != nil && s.resumer != nil {
		s.resumer.forget(s, callKey{s.number, tx})
	}
}

// Host returns a [ipc.Caller] for the process whose call ctx, the context of a
// handler, belongs to: with it a handler calls back. It returns nil for any
// other context.
func Host(ctx context.Context) ipc.Caller {
	if s, ok := ctx.Value(sessionKey{}).(*session); ok {
		return s
	}
	return nil
}

// Codec returns the codec of the link. It makes a session an [ipc.Caller].
func (s *session) Codec() ipc.Codec { return s.codec }
