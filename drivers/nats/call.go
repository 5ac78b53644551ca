package natsipc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tandemipc/tandem/ipc"
)

// retrier makes calls, if need be in more than one attempt.
type retrier struct{ *Client }

// Invoke implements [ipc.Caller].
func (c retrier) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	attempts := 1
	if inv.Idempotent {
		if attempts = c.attempts; inv.Attempts > 0 {
			attempts = inv.Attempts
		}
	}
	own := *inv
	if own.Timeout == ipc.DefaultTimeout {
		own.Timeout = c.timeout
	}
	timeout, began := own.Timeout, time.Now()
	for own.Attempt = 1; ; own.Attempt++ {
		response, err := c.tries.Invoke(ctx, &own, request, memory)
		if err == nil {
			return response, nil
		}
		cut := wasCut(err)
		if own.Attempt >= attempts || !errors.Is(err, ipc.ErrPeerGone) && !cut || errors.Is(err, ipc.ErrClosed) {
			if _, over := err.(*ipc.TimeoutError); over && timeout > 0 { // of what was left
				err = timedOut(inv, timeout)
			}
			return nil, err
		}
		memory = nil // it was taken over
		if cut {
			c.awaitCut(ctx)
		}
		if timeout > 0 {
			if own.Timeout = timeout - time.Since(began); own.Timeout <= 0 {
				return nil, timedOut(inv, timeout)
			}
		}
	}
}

// wasCut reports whether err says that a message could not be written, and was lost with its connection.
func wasCut(err error) bool {
	var cut *net.OpError
	return errors.As(err, &cut)
}

// awaitCut waits after a failed write until NATS knows that the connection is down, for which the next attempt waits then. It does not wait long.
func (c *Client) awaitCut(ctx context.Context) {
	changed := c.nc.StatusChanged(nats.RECONNECTING, nats.CLOSED, nats.CONNECTED)
	defer c.nc.RemoveStatusListener(changed)
	if !c.nc.IsConnected() {
		return
	}
	wait := time.NewTimer(100 * time.Millisecond)
	defer wait.Stop()
	select {
	case <-changed:
	case <-wait.C:
	case <-c.closing:
	case <-ctx.Done():
	}
}

func timedOut(inv *ipc.Invocation, timeout time.Duration) error {
	return &ipc.TimeoutError{What: fmt.Sprintf("call of %q", inv.Method.Name), After: timeout}
}

// attempt makes one attempt of each call.
type attempt struct{ *Client }

// Invoke implements [ipc.Caller].
func (c attempt) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	attached := !inv.Attached.Empty()
	if attached {
		var err error
		if request, err = pack(request, inv.Attached, c.maxMessage); err != nil {
			return nil, err
		}
	}
	if len(request) > c.maxMessage {
		return nil, &ipc.SizeError{Size: len(request), Limit: c.maxMessage}
	}
	subject, err := c.subject(tokenCall, inv)
	if err != nil {
		return nil, err
	}
	p, inbox, err := c.register()
	if err != nil {
		return nil, err
	}
	var over <-chan time.Time
	var end time.Time
	if inv.Timeout > 0 {
		end = time.Now().Add(inv.Timeout)
		p.timer.Reset(inv.Timeout)
		over = p.timer.C
	}
	waited, err := c.awaitConnection(ctx, inv, over)
	if err != nil {
		c.forget(p, false)
		return nil, err
	}
	header := callHeader{
		id: inv.Method.ID, codec: c.codec.Name(), order: byteOrder, timeout: inv.Timeout, heartbeat: c.heartbeat,
		attempts: inv.Attempts, oneWay: inv.OneWay, idempotent: inv.Idempotent, attached: attached,
	}
	if waited && inv.Timeout > 0 {
		header.timeout = max(time.Until(end), 1)
	}
	bounded, err := header.bound(ctx)
	if err == nil {
		err = c.send(subject, inbox, inv, &header, request)
	}
	if err != nil {
		c.forget(p, false)
		if errors.Is(err, nats.ErrMaxPayload) {
			return c.sendLarge(ctx, inv, request, attached, end)
		}
		return nil, err
	}
	select {
	case o := <-p.answer:
		if o.err == nil && o.msg.Header.Get(headerAnswer) == answerLarge {
			defer c.forget(p, true) // the heartbeats until then are of a call that is known
			return c.fetch(ctx, inv, o.msg, end)
		}
		c.forget(p, true)
		if o.err != nil {
			return nil, o.err
		}
		return c.result(inv, o.msg, bounded)
	case <-ctx.Done():
		c.giveUp(p, reasonOf(ctx.Err()))
		return nil, ctx.Err()
	case <-over:
		c.giveUp(p, controlDeadline)
		return nil, timedOut(inv, inv.Timeout)
	}
}

// notPublished returns the error of a message that could not be published.
func (c *Client) notPublished(m *nats.Msg, err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return &ipc.SizeError{Size: m.Size(), Limit: int(c.nc.MaxPayload())}
	}
	return c.unsent(err)
}

func reasonOf(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return controlDeadline
	}
	return controlCancel
}

// bound has the call end with the deadline of its context, if that is earlier than its timeout, and reports whether it is.
func (h *callHeader) bound(ctx context.Context) (bool, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return false, nil
	}
	left := time.Until(deadline)
	if left <= 0 {
		return false, context.DeadlineExceeded // its timer has not fired yet
	}
	if h.timeout > 0 && h.timeout <= left {
		return false, nil
	}
	h.timeout = left
	return true, nil
}

// send sends a request. The error wraps [nats.ErrMaxPayload] if it is too large for a message.
func (c *Client) send(subject, inbox string, inv *ipc.Invocation, header *callHeader, request []byte) error {
	var err error
	if len(inv.Metadata) == 0 && len(request) <= smallPayload {
		err = publishLine(c.nc, subject, inbox, header.append, request)
	} else {
		m := message(subject, inv)
		m.Header[headerCall] = []string{header.String()}
		m.Reply, m.Data = inbox, request
		err = c.nc.PublishMsg(m)
	}
	if err != nil && !errors.Is(err, nats.ErrMaxPayload) {
		return c.unsent(err)
	}
	return err
}

// base is what the subjects of the service begin with.
func (c *Client) base() string { return c.prefix + "." + c.service + "." }

// maxSubjects is how many subjects a client remembers.
const maxSubjects = 1000

// subject returns the subject of calls of a method, or of openings of its streams. The error says what of inv cannot be sent.
func (c *Client) subject(token string, inv *ipc.Invocation) (string, error) {
	if err := inv.Metadata.Check(); err != nil {
		return "", err
	}
	key := subjectKey{token, inv.Method.Name}
	c.mu.Lock()
	defer c.mu.Unlock()
	if subject := c.subjects[key]; subject != "" {
		return subject, nil
	}
	subject := c.base() + token + "." + subjectOf(inv.Method.Name)
	if len(subject) > maxSubject {
		return "", ipc.Errorf(ipc.CodeInvalidArgument, "tandem: the name of the method is too long for NATS: a subject of %d bytes, most allowed are %d", len(subject), maxSubject)
	}
	if len(c.subjects) >= maxSubjects {
		clear(c.subjects)
	}
	c.subjects[key] = subject
	return subject, nil
}

// message returns the message of a request, or of the opening of a stream, with its metadata.
func message(subject string, inv *ipc.Invocation) *nats.Msg {
	m := &nats.Msg{Subject: subject, Header: make(nats.Header, 2)}
	setMetadata(m, headerMeta, inv.Metadata)
	return m
}

// awaitConnection waits until the connection is up, and reports whether it had to. Otherwise NATS would keep the request, and
// send it when its time is over.
func (c *Client) awaitConnection(ctx context.Context, inv *ipc.Invocation, over <-chan time.Time) (waited bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if c.nc.IsConnected() {
		return false, nil
	}
	changed := c.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer c.nc.RemoveStatusListener(changed)
	for {
		switch {
		case c.nc.IsConnected():
			return true, nil
		case c.nc.IsClosed(), c.nc.IsDraining():
			return true, c.unsent(nats.ErrConnectionClosed)
		}
		select {
		case <-changed:
		case <-c.closing:
			return true, ipc.ErrClosed
		case <-ctx.Done():
			return true, ctx.Err()
		case <-over:
			return true, timedOut(inv, inv.Timeout)
		}
	}
}

// result returns what an answer says. bounded says that the deadline of the context bounds the call, rather
// than its timeout.
func (c *Client) result(inv *ipc.Invocation, m *nats.Msg, bounded bool) ([]byte, error) {
	header, err := metadataOf(m, headerHeader)
	if err != nil {
		return nil, err
	}
	trailer, err := metadataOf(m, headerTrailer)
	if err != nil {
		return nil, err
	}
	if inv.Header != nil {
		*inv.Header = header
	}
	if inv.Trailer != nil {
		*inv.Trailer = trailer
	}
	switch answer, payload := lineOf(m, headerAnswer); string(answer) {
	case answerOK, answerBuffers:
		if len(payload) > c.maxMessage {
			return nil, tooLarge(len(payload), c.maxMessage)
		}
		if string(answer) == answerOK {
			return payload, nil
		}
		response, a, err := unpack(payload, false)
		give(inv, a)
		return response, err
	case answerError:
		return nil, ipc.ParseError(m.Data)
	case answerGone:
		return nil, fmt.Errorf("%w: %w", ipc.ErrPeerGone, ipc.ParseError(m.Data))
	case answerOverdue:
		if bounded {
			return nil, context.DeadlineExceeded
		}
		return nil, timedOut(inv, inv.Timeout)
	default:
		return nil, ipc.Errorf(ipc.CodeInternal, "%w: an answer over NATS that no service has sent: %.100q; is there a JetStream stream of the subject of requests?", ipc.ErrProtocol, m.Data)
	}
}
