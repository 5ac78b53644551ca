package natsipc

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/tandemipc/tandem/ipc"
)

// request is one that has come.
type request struct {
	m     *nats.Msg
	begun time.Time // when it came
}

// received takes a request. One goroutine calls it, so it does not wait.
func (h *host) received(m *nats.Msg) {
	if !mayAnswer(m.Reply) {
		h.svc.Logger.Warn("tandem: a message over NATS that asks for no answer was dropped", "subject", m.Subject)
		return
	}
	r := request{m, time.Now()}
	select {
	case h.places <- struct{}{}:
	default:
		h.refuse(m, r.begun, ipc.Errorf(ipc.CodeResourceExhausted, "tandem: the service %q runs %d calls already", h.svc.Name, h.svc.Concurrency))
		return
	}
	if !h.enter() {
		<-h.places
		return
	}
	select {
	case h.requests <- r: // to a goroutine that waits for it
	default:
		go h.serveRequests(r)
	}
}

const (
	// maxIdle is how many goroutines wait for requests. A new one costs more, since its stack has to grow.
	maxIdle = 16
	// maxMemory is how large the memory is that each of them keeps for the next response.
	maxMemory = 256 << 10
)

// server is a goroutine that serves one request after the other, with what it keeps for the next one.
type server struct {
	*host
	memory  []byte          // for a response
	last    parsed          // the last request without headers
	free    *exchange       // that nobody uses, or nil
	callCtx context.Context // of a call that was not given up, or nil
	endCall context.CancelCauseFunc
}

// exchange is a call that is made for a request, and its answer.
type exchange struct {
	call   ipc.Invocation
	answer answer
	told   bool // the caller has been told that it gets none, or has given up
}

// serveRequests serves a request, and then others, until there are enough goroutines that wait for them.
func (h *host) serveRequests(r request) {
	s := &server{host: h}
	defer func() {
		if s.callCtx != nil {
			s.endCall(nil)
		}
	}()
	for {
		if s.serve(r.m, r.begun); cap(s.memory) > maxMemory {
			s.memory = nil
		}
		if h.idle.Add(1) > maxIdle {
			h.idle.Add(-1)
			return
		}
		select {
		case r = <-h.requests:
			h.idle.Add(-1)
		case <-h.ctx.Done():
			return
		}
	}
}

// mayAnswer reports whether a subject is one for answers. Those that begin with $ are of NATS itself, which would take them for the service's own
// requests.
func mayAnswer(reply string) bool { return reply != "" && reply[0] != '$' }

// refuse answers a request that is not served.
func (h *host) refuse(m *nats.Msg, begun time.Time, err error) {
	h.stats.note(m.Subject, time.Since(begun), err)
	h.answer(m.Reply, &answer{kind: answerError, payload: ipc.AppendError(nil, err)})
}

// serve serves one request. It does all else before it sends the answer: whatever follows holds up the goroutine that writes to the
// connection.
func (h *server) serve(m *nats.Msg, begun time.Time) {
	defer h.running.Done()
	x := h.free
	if h.free = nil; x == nil {
		x = new(exchange)
	}
	returned, placed := false, true
	defer func() {
		if !returned { // the handler has ended the goroutine
			if h.stats.note(m.Subject, time.Since(begun), errExited); !x.told {
				h.answer(m.Reply, &answer{kind: answerError, payload: ipc.AppendError(nil, errExited)})
			}
		}
		if placed {
			<-h.places
		}
	}()
	a := &x.answer
	err := h.call(m, begun, x)
	returned = true
	h.stats.note(m.Subject, time.Since(begun), err)
	// The place is free before the caller knows, which may call again at once; but not if the connection takes no answers.
	if n := h.answering.Add(1); int(n) <= h.svc.Concurrency {
		placed = false
		<-h.places
	}
	if a.kind != "" {
		h.answer(m.Reply, a)
	}
	h.answering.Add(-1)
	h.memory = a.payload[:0] // which was copied
	if h.direct {
		*x = exchange{}
		h.free = x
	}
}

// errExited is the answer to a call whose handler has ended its goroutine.
var errExited = ipc.NewError(ipc.CodeInternal, "the handler called runtime.Goexit")

// call has a request answered, and puts the answer into x, if somebody waits for it. It returns how the call has ended.
func (h *server) call(m *nats.Msg, begun time.Time, x *exchange) error {
	a, inv := &x.answer, &x.call
	line, payload := lineOf(m, headerCall)
	if m.Header != nil || string(line) != h.last.line || m.Subject != h.last.subject {
		var err error
		if h.last, err = h.parse(m, tokenCall, string(line)); err != nil {
			a.kind, a.payload = answerError, ipc.AppendError(nil, err)
			return err
		}
	}
	caller, header := h.last.caller, &h.last.header
	if err := h.invocation(m, &h.last, payload, inv); err != nil {
		a.kind, a.payload = answerError, ipc.AppendError(nil, err)
		return err
	}
	inv.Header, inv.Trailer = &a.header, &a.trailer
	inv.Owned = h.direct // it is a part of m
	if h.callCtx == nil {
		h.callCtx, h.endCall = context.WithCancelCause(h.ctx)
	}
	ctx, keep := h.callCtx, false
	s := h.begin(m.Reply, begun, header.heartbeat, h.endCall)
	defer func() {
		if x.told = !s.end() || ctx.Err() != nil; !keep || ctx.Err() != nil {
			h.endCall(nil)
			h.callCtx = nil
		}
	}()
	response, err := h.invoke(ctx, caller, inv, payload, header.attached, h.memory, a)
	if err == nil && h.isLarge(response, a) {
		if header.timeout > 0 { // then nobody fetches it any more
			var stop context.CancelFunc
			ctx, stop = context.WithDeadline(ctx, begun.Add(header.timeout))
			defer stop()
		}
		var handed bool
		if handed, err = h.hand(ctx, s, header, begun, response, a); handed {
			a.kind = ""
			return err
		}
	}
	keep = h.direct
	if !s.end() { // the caller was told already
		a.kind = ""
		return errEnding
	}
	if err == nil {
		a.payload = response
		return nil
	}
	if cause := context.Cause(ctx); cause == errCanceled || cause == errCallerGone {
		a.kind = ""
		return cause // nobody waits
	}
	a.kind, a.payload = h.failure(err, header, time.Since(begun))
	return err
}

// invoke makes a call, whose request has buffers if attached is set. It returns the response, with its buffers, and the kind of the
// answer in a.
func (h *host) invoke(ctx context.Context, caller ipc.Caller, inv *ipc.Invocation, request []byte, attached bool, memory []byte, a *answer) ([]byte, error) {
	if attached {
		var err error
		if request, inv.Attached, err = unpack(request, false); err != nil {
			return nil, err
		}
		defer inv.Attached.Release()
	}
	inv.Received = &a.received
	defer a.received.Release()
	response, err := caller.Invoke(ctx, inv, request, memory)
	if most := h.svc.MaxMessage; err == nil && len(response) > most {
		return nil, ipc.Errorf(ipc.CodeResourceExhausted, "tandem: the response cannot be sent: %w", &ipc.SizeError{Size: len(response), Limit: most})
	}
	if a.kind = answerOK; err == nil && !a.received.Empty() {
		a.kind = answerBuffers
		response, err = pack(response, &a.received, h.svc.MaxMessage)
	}
	return response, err
}

// parsed is what the subject and the line of a request say, and who answers it.
type parsed struct {
	subject, line string
	header        callHeader
	method        ipc.MethodInfo
	caller        ipc.Caller
}

// parse returns what a request asks for, and who answers it.
func (h *host) parse(m *nats.Msg, token, line string) (p parsed, err error) {
	header, err := parseCall(line)
	if err != nil {
		return p, err
	}
	if header.order != byteOrder {
		return p, ipc.Errorf(ipc.CodeFailedPrecondition, "%w", &ipc.MismatchError{What: "byte order", Local: byteOrder, Remote: cut(header.order)})
	}
	name, err := methodOf(m.Subject[len(h.base)+len(token)+1:])
	if err != nil {
		return p, malformed("subject", m.Subject)
	}
	if err := h.names.check(name, header.id); err != nil {
		return p, err
	}
	caller, err := h.caller(cut(header.codec))
	if err != nil {
		return p, ipc.Errorf(ipc.CodeFailedPrecondition, "%w", err)
	}
	return parsed{m.Subject, line, header, ipc.MethodInfo{Name: name, ID: header.id}, caller}, nil
}

// invocation makes inv the call that a request is, or returns why it is refused.
func (h *host) invocation(m *nats.Msg, p *parsed, payload []byte, inv *ipc.Invocation) error {
	if len(payload) > h.svc.MaxMessage {
		return ipc.Errorf(ipc.CodeResourceExhausted, "tandem: a request of %d bytes, largest allowed %d", len(payload), h.svc.MaxMessage)
	}
	md, err := metadataOf(m, headerMeta)
	if err != nil {
		return err
	}
	header := &p.header
	*inv = ipc.Invocation{
		Method: p.method, OneWay: header.oneWay, Idempotent: header.idempotent,
		Timeout: header.timeout, Attempts: header.attempts, Metadata: md,
	}
	return nil
}

// failure returns the answer to a call that has failed after some time.
func (h *host) failure(err error, header *callHeader, took time.Duration) (answer string, payload []byte) {
	var e *ipc.Error
	if errors.As(err, &e) && e.Remote() && !errors.Is(err, ipc.ErrPeerGone) {
		if context.Cause(h.ctx) == nil || e.Code != ipc.CodeCanceled {
			return answerError, ipc.AppendError(nil, err)
		}
		err = errEnding // which has ended the handler's context
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded) && header.timeout > 0 && took >= header.timeout:
		return answerOverdue, nil
	case errors.Is(err, ipc.ErrPeerGone), errors.Is(err, ipc.ErrDisconnected), errors.Is(err, ipc.ErrClosed), errors.Is(err, errEnding), context.Cause(h.ctx) != nil:
		return answerGone, ipc.AppendError(nil, ipc.NewError(ipc.CodeUnavailable, err.Error()))
	}
	return answerError, ipc.AppendError(nil, err)
}

// answer is what a caller gets.
type answer struct {
	kind            string // one of those of headerAnswer, or "" if there is none
	payload         []byte
	header, trailer ipc.Metadata
	received        ipc.Attachments // of the response
}

// answer sends an answer. One that cannot be sent since it is too large becomes an error.
func (h *host) answer(reply string, a *answer) {
	err := h.publish(reply, a)
	if errors.Is(err, nats.ErrMaxPayload) {
		size := &ipc.SizeError{Size: len(a.payload) + a.header.Size() + a.trailer.Size(), Limit: int(h.nc.MaxPayload())}
		err = h.publish(reply, &answer{kind: answerError, payload: ipc.AppendError(nil, ipc.Errorf(ipc.CodeResourceExhausted, "the response cannot be sent: %w", size))})
	}
	if err != nil {
		h.svc.Logger.Warn("tandem: an answer could not be sent over NATS", "error", err)
	}
}

func (h *host) publish(reply string, a *answer) error {
	if a.kind == answerOK && len(a.header)+len(a.trailer) == 0 && len(a.payload) <= smallPayload {
		return publishLine(h.nc, reply, "", appendOK, a.payload)
	}
	m := &nats.Msg{Subject: reply, Data: a.payload, Header: nats.Header{headerAnswer: {a.kind}}}
	setMetadata(m, headerHeader, a.header)
	setMetadata(m, headerTrailer, a.trailer)
	if a.kind == answerError || a.kind == answerGone {
		e := ipc.ParseError(a.payload)
		m.Header[micro.ErrorHeader] = []string{strings.Join(strings.Fields(e.Message), " ")}
		m.Header[micro.ErrorCodeHeader] = []string{e.Code.String()}
	}
	return h.nc.PublishMsg(m)
}

func appendOK(b []byte) []byte { return append(b, answerOK...) }
