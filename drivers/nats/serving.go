package natsipc

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/tandemipc/tandem/drivers/nats/internal/flow"
	"github.com/tandemipc/tandem/ipc"
)

// serving is a call that is served.
type serving struct {
	host    *host
	number  uint64
	reply   string
	control string
	cancel  context.CancelCauseFunc
	due     time.Time // of the next heartbeat; guarded by the host's mutex

	mu       sync.Mutex
	over     bool
	interval time.Duration
	large    bool           // there is a response that has to be fetched,
	size     int            // of so many bytes
	fetch    chan *nats.Msg // takes who fetches it; nil if there is none
	unheard  bool           // NATS has said since the last heartbeat that nobody gets it
	strikes  int            // heartbeats in a row that nobody has got
}

// Why a handler's context ends.
var (
	errCanceled   = errors.New("tandem: the caller has given up")
	errCallerGone = errors.New("tandem: the caller is gone")
)

// received takes a request. One goroutine calls it, so it does not wait.
func (h *host) received(m *nats.Msg) {
	if m.Reply == "" {
		h.svc.Logger.Warn("tandem: a message over NATS that asks for no answer was dropped", "subject", m.Subject)
		return
	}
	begun := time.Now()
	select {
	case h.places <- struct{}{}:
	default:
		h.refuse(m, begun, ipc.Errorf(ipc.CodeResourceExhausted, "tandem: the service %q runs %d calls already", h.svc.Name, h.svc.Concurrency))
		return
	}
	h.running.Add(1)
	go func() {
		defer h.running.Done()
		defer func() { <-h.places }()
		h.serve(m, begun)
	}()
}

// refuse answers a request that is not served.
func (h *host) refuse(m *nats.Msg, begun time.Time, err error) {
	h.answer(m.Reply, answerError, ipc.AppendError(nil, err), nil, nil)
	h.stats.note(m.Subject, time.Since(begun), err)
}

// serve serves one request.
func (h *host) serve(m *nats.Msg, begun time.Time) {
	caller, inv, header, err := h.parse(m, tokenCall)
	if err != nil {
		h.refuse(m, begun, err)
		return
	}
	var head, trail ipc.Metadata
	inv.Header, inv.Trailer = &head, &trail
	ctx, cancel := context.WithCancelCause(h.ctx)
	defer cancel(nil)
	s := h.begin(m.Reply, header.heartbeat, cancel)
	defer s.end()
	response, err := caller.Invoke(ctx, inv, m.Data, nil)
	if err == nil && h.isLarge(response, head, trail) {
		if header.timeout > 0 { // then nobody fetches it any more
			var stop context.CancelFunc
			ctx, stop = context.WithDeadline(ctx, begun.Add(header.timeout))
			defer stop()
		}
		err = h.hand(ctx, s, response, head, trail)
		if err == nil {
			h.stats.note(m.Subject, time.Since(begun), nil)
			return
		}
	}
	s.end() // before the answer
	answer := answerOK
	if err != nil {
		if cause := context.Cause(ctx); cause == errCanceled || cause == errCallerGone {
			h.stats.note(m.Subject, time.Since(begun), cause)
			return // nobody waits
		}
		answer, response = h.failure(err, header, time.Since(begun))
	}
	h.answer(m.Reply, answer, response, head, trail)
	h.stats.note(m.Subject, time.Since(begun), err)
}

// parse returns what a request asks for, and who answers it.
func (h *host) parse(m *nats.Msg, token string) (ipc.Caller, *ipc.Invocation, callHeader, error) {
	header, err := parseCall(m.Header.Get(headerCall))
	if err != nil {
		return nil, nil, header, err
	}
	if header.order != byteOrder {
		return nil, nil, header, ipc.Errorf(ipc.CodeFailedPrecondition, "%w", &ipc.MismatchError{What: "byte order", Local: byteOrder, Remote: header.order})
	}
	if len(m.Data) > h.svc.MaxMessage {
		return nil, nil, header, ipc.Errorf(ipc.CodeResourceExhausted, "tandem: a request of %d bytes, largest allowed %d", len(m.Data), h.svc.MaxMessage)
	}
	name, err := methodOf(strings.TrimPrefix(m.Subject, h.base+token+"."))
	if err != nil {
		return nil, nil, header, malformed("subject", m.Subject)
	}
	md, err := metadataOf(m, headerMeta)
	if err != nil {
		return nil, nil, header, err
	}
	caller, err := h.caller(header.codec)
	if err != nil {
		return nil, nil, header, ipc.Errorf(ipc.CodeFailedPrecondition, "%w", err)
	}
	return caller, &ipc.Invocation{
		Method: ipc.MethodInfo{Name: name, ID: header.id}, OneWay: header.oneWay, Idempotent: header.idempotent,
		Timeout: header.timeout, Attempts: header.attempts, Metadata: md,
	}, header, nil
}

// failure returns the answer to a call that has failed after some time.
func (h *host) failure(err error, header callHeader, took time.Duration) (answer string, payload []byte) {
	var e *ipc.Error
	if errors.As(err, &e) && e.Remote() {
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

// answer sends an answer. One that cannot be sent since it is too large becomes an error.
func (h *host) answer(reply, answer string, payload []byte, header, trailer ipc.Metadata) {
	m := &nats.Msg{Subject: reply, Reply: answerMark, Data: payload}
	if answer != answerOK || len(header)+len(trailer) > 0 {
		m.Header = nats.Header{headerAnswer: {answer}}
	}
	setMetadata(m, headerHeader, header)
	setMetadata(m, headerTrailer, trailer)
	if answer == answerError || answer == answerGone {
		e := ipc.ParseError(payload)
		m.Header[micro.ErrorHeader] = []string{strings.Join(strings.Fields(e.Message), " ")}
		m.Header[micro.ErrorCodeHeader] = []string{e.Code.String()}
	}
	err := h.nc.PublishMsg(m)
	if errors.Is(err, nats.ErrMaxPayload) {
		size := &ipc.SizeError{Size: m.Size(), Limit: int(h.nc.MaxPayload())}
		m.Header = nats.Header{headerAnswer: {answerError}}
		m.Data = ipc.AppendError(nil, ipc.Errorf(ipc.CodeResourceExhausted, "the response cannot be sent: %w", size))
		err = h.nc.PublishMsg(m)
	}
	if err != nil {
		h.svc.Logger.Warn("tandem: an answer could not be sent over NATS", "error", err)
	}
}

// secret returns a number that nobody guesses: who knows the subject of controls of a call can give it up, and fetch its response.
func secret() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return binary.LittleEndian.Uint64(b[:])
}

// bounded returns an interval of heartbeats as a caller may choose it.
func bounded(interval time.Duration) time.Duration {
	return min(max(interval, MinHeartbeat), MaxHeartbeat)
}

// begin makes a call known, and begins its heartbeats.
func (h *host) begin(reply string, interval time.Duration, cancel context.CancelCauseFunc) *serving {
	s := &serving{host: h, number: secret(), reply: reply, cancel: cancel, interval: bounded(interval)}
	s.control = h.base + tokenControl + "." + h.id + "." + strconv.FormatUint(s.number, 36)
	s.due = time.Now().Add(min(acceptDelay, s.interval))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls[s.number] = s
	h.beatAt(s.due)
	return s
}

// beatAt has the heartbeats sent that are due then. One timer serves all calls, since one for each would cost a
// quick call more than all the rest of it. h.mu is held.
func (h *host) beatAt(due time.Time) {
	if !h.next.IsZero() && !due.Before(h.next) {
		return
	}
	h.next = due
	if wait := time.Until(due); h.timer == nil {
		h.timer = time.AfterFunc(wait, h.beats)
	} else {
		h.timer.Reset(wait)
	}
}

// beats sends the heartbeats that are due.
func (h *host) beats() {
	now := time.Now()
	var due []*serving
	h.mu.Lock()
	h.next = time.Time{}
	var next time.Time
	for _, s := range h.calls {
		if !s.due.After(now) {
			s.due = now.Add(s.interval)
			due = append(due, s)
		}
		if next.IsZero() || s.due.Before(next) {
			next = s.due
		}
	}
	if !next.IsZero() {
		h.beatAt(next)
	}
	h.mu.Unlock()
	for _, s := range due {
		s.beat()
	}
}

// end ends the heartbeats. It may be called more than once.
func (s *serving) end() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.host.mu.Lock()
	delete(s.host.calls, s.number)
	s.host.mu.Unlock()
}

// beat says that the call is still served, or ends it if nobody listens.
func (s *serving) beat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	if s.unheard {
		s.unheard = false
		s.strikes++
	} else {
		s.strikes = 0
	}
	if s.strikes >= maxMissed {
		s.cancel(errCallerGone)
		return
	}
	if s.host.nc.IsConnected() {
		m := &nats.Msg{Subject: s.reply, Reply: s.control, Header: nats.Header{headerAnswer: {answerAlive}}}
		if s.large {
			m.Header, m.Data = nats.Header{headerAnswer: {answerLarge}}, strconv.AppendInt(nil, int64(s.size), 10)
		}
		_ = s.host.nc.PublishMsg(m) // if that fails the next one is as good
	}
}

// controlled takes what a caller, or NATS, says of a call. One goroutine calls it.
func (h *host) controlled(m *nats.Msg) {
	number, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 36, 64)
	if err != nil {
		return
	}
	h.mu.Lock()
	s := h.calls[number]
	h.mu.Unlock()
	fetches := m.Header.Get(headerStream) != ""
	switch {
	case s == nil && fetches:
		_ = flow.Refuse(h.nc, m.Reply, ipc.Errorf(ipc.CodeUnavailable, "tandem: there is no response to fetch")) // or the caller misses heartbeats
	case s == nil:
	case fetches:
		s.mu.Lock()
		fetch := s.fetch
		s.mu.Unlock()
		select {
		case fetch <- m:
		default: // there is no response yet, or somebody fetches it already
		}
	case len(m.Data) == 0 && m.Header.Get(headerStatus) == statusNobody:
		s.mu.Lock()
		s.unheard = true
		s.mu.Unlock()
	case m.Header.Get(headerControl) == controlCancel, m.Header.Get(headerControl) == controlDeadline:
		s.cancel(errCanceled)
	}
}
