package engine

import (
	"context"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/bulk"
)

// A session can have the other end of its link in the same process. The handlers of calls can then run in
// the goroutines of their callers, as if the link had carried request and response, and nobody has to be
// woken. Such a call ends when its handler returns. Whatever needs more than that goes
// over the link: notifications, streams, attachments of requests, and handlers of which only so many run
// at once.

// CallDirectly makes calls run the handlers of there, the session at the other end of the link, in their own
// goroutines. It is called before the session is opened.
func (s *Session) CallDirectly(there *Session) { s.there = there }

// directContext is the context of a handler that runs in the goroutine of its caller.
type directContext struct {
	requestContext
	exchange exchange
}

// direct returns the handler of the other end that can run in the goroutine of its caller, or nil if the
// call has to go over the link. A handler that is returned has to run: the other end waits for it.
func (s *Session) direct(inv *ipc.Invocation, request []byte) *Handler {
	if s.there == nil || inv.OneWay || !inv.Attached.Empty() {
		return nil
	}
	size := len(request)
	if len(inv.Metadata) > 0 {
		size += ipc.MaxMetadata // at most
	}
	if size > s.maxPayload { // the link says so
		return nil
	}
	h := s.there.config.Handlers.find(inv.Method.ID)
	if h == nil || h.Stream != nil || h.semaphore != nil || !s.there.inFlight.enter() {
		return nil
	}
	return h
}

// invokeDirect makes a call whose handler is h, which direct has returned.
func (s *Session) invokeDirect(ctx context.Context, inv *ipc.Invocation, h *Handler, request, memory []byte) ([]byte, error) {
	there := s.there
	defer there.inFlight.exit()
	timeout := s.timeoutOf(inv)
	remaining, err := s.remaining(ctx, timeout)
	if err != nil {
		return nil, err
	}
	meta, err := metaOf(inv)
	if err != nil {
		return nil, err
	}
	f := drivers.Frame{Kind: drivers.KindRequest, Method: inv.Method.ID, Remaining: remaining, Payload: request}
	own := &directContext{exchange: exchange{request: meta.Header(), caller: ctx}}
	c := &own.requestContext
	c.exchange.Store(&own.exchange)
	defer c.cancel(drivers.ReasonGivenUp) // also if the handler ends its goroutine
	r := requests.Get().(*Request)
	r.init(there, h, &f, c)
	r.direct, r.borrowed, r.owned = true, false, inv.Owned // the caller leaves the request as it is
	c.fixDeadline()
	response, failure := there.call(r)
	if failure == nil && r.reply != nil {
		failure = r.attachReply(there, &response)
	}
	r.freezeMeta()
	answer := r.respond(response)
	if failure != nil {
		answer = r.fail(failure)
	}
	if size := sizeOf(answer); size > s.maxPayload {
		answer = r.fail(ipc.AppendError(nil, unsendable(&ipc.SizeError{Size: size, Limit: s.maxPayload})))
		answer.Meta = nil
	}
	deliver(answer.Meta, inv)
	if answer.Kind == drivers.KindError {
		response, err = nil, directError(ctx, ipc.ParseError(answer.Payload), &inv.Method, timeout)
	} else {
		response, err = s.takeDirect(answer, inv, memory)
	}
	r.clear()
	requests.Put(r)
	return response, err
}

// directError returns the error of a call that has failed with err. If the handler has ended with the context
// of the caller, that says why, as for a call that gives up waiting.
func directError(ctx context.Context, err error, m *ipc.MethodInfo, timeout time.Duration) error {
	if ctx.Err() == context.Canceled && ipc.CodeOf(err) == ipc.CodeCanceled {
		return context.Canceled
	}
	return ownTimeout(ctx, err, m, timeout)
}

// sizeOf returns what a frame takes of a link besides its header.
func sizeOf(f *drivers.Frame) int {
	n := len(f.Payload) + len(f.Handles)
	if f.Meta != nil {
		n += f.Meta.EncodedSize()
	}
	return n
}

// takeDirect returns the response of an answer in memory that is the caller's, with its attachments in inv.
func (s *Session) takeDirect(answer *drivers.Frame, inv *ipc.Invocation, memory []byte) ([]byte, error) {
	response := answer.Payload
	if answer.Handles != nil { // then the payload is nobody else's: see pack
		f := drivers.Frame{Payload: response, Handles: answer.Handles, Owned: true}
		a, err := s.attachmentsOf(&f)
		if err != nil {
			return nil, err
		}
		response = f.Payload
		if inv.Received != nil {
			receive(inv, a)
		} else {
			a.Release()
		}
	}
	return bulk.Append(memory[:0], response), nil
}
