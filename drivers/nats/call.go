package natsipc

import (
	"context"
	"errors"
	"fmt"
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
		if err == nil || own.Attempt >= attempts || !errors.Is(err, ipc.ErrPeerGone) || errors.Is(err, ipc.ErrClosed) {
			if _, over := err.(*ipc.TimeoutError); over && timeout > 0 { // of what was left
				err = timedOut(inv, timeout)
			}
			return response, err
		}
		memory = nil // it was taken over
		if timeout > 0 {
			if own.Timeout = timeout - time.Since(began); own.Timeout <= 0 {
				return nil, timedOut(inv, timeout)
			}
		}
	}
}

func timedOut(inv *ipc.Invocation, timeout time.Duration) error {
	return &ipc.TimeoutError{What: fmt.Sprintf("call of %q", inv.Method.Name), After: timeout}
}

// attempt makes one attempt of each call.
type attempt struct{ *Client }

// Invoke implements [ipc.Caller].
func (c attempt) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	m, err := c.request(inv, request)
	if err != nil {
		return nil, err
	}
	header := callHeader{
		id: inv.Method.ID, codec: c.codec.Name(), order: byteOrder, timeout: inv.Timeout, heartbeat: c.heartbeat,
		attempts: inv.Attempts, oneWay: inv.OneWay, idempotent: inv.Idempotent,
	}
	var over <-chan time.Time
	end := time.Now().Add(inv.Timeout)
	if inv.Timeout > 0 {
		timer := time.NewTimer(inv.Timeout)
		defer timer.Stop()
		over = timer.C
	}
	if err := c.awaitConnection(ctx, inv, over); err != nil {
		return nil, err
	}
	if inv.Timeout > 0 {
		header.timeout = max(time.Until(end), 1)
	}
	deadline, bounded := ctx.Deadline()
	if bounded {
		left := time.Until(deadline)
		if left <= 0 {
			return nil, context.DeadlineExceeded // its timer has not fired yet
		}
		if bounded = header.timeout == 0 || left < header.timeout; bounded {
			header.timeout = left
		}
	}
	m.Header[headerCall] = []string{header.String()}

	p, inbox, err := c.register()
	if err != nil {
		return nil, err
	}
	defer c.forget(p)
	m.Reply = inbox
	if err := c.nc.PublishMsg(m); err != nil {
		if errors.Is(err, nats.ErrMaxPayload) {
			c.forget(p)
			return c.sendLarge(ctx, inv, request, end)
		}
		return nil, c.unsent(err)
	}
	select {
	case o := <-p.answer:
		switch {
		case o.err != nil:
			return nil, o.err
		case o.msg.Header.Get(headerAnswer) == answerLarge:
			return c.fetch(ctx, inv, o.msg, end)
		}
		return c.result(inv, o.msg, bounded)
	case <-ctx.Done():
		c.forget(p)
		c.giveUp(p, reasonOf(ctx.Err()))
		return nil, ctx.Err()
	case <-over:
		c.forget(p)
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

// request returns the message of a request, without what changes with each attempt.
func (c *Client) request(inv *ipc.Invocation, request []byte) (*nats.Msg, error) {
	if !inv.Attached.Empty() {
		return nil, noAttachments("call", inv.Method.Name)
	}
	if len(request) > c.maxMessage {
		return nil, &ipc.SizeError{Size: len(request), Limit: c.maxMessage}
	}
	m, err := c.message(tokenCall, inv)
	if err == nil {
		m.Data = request
	}
	return m, err
}

// base is what the subjects of the service begin with.
func (c *Client) base() string { return c.prefix + "." + c.service + "." }

// message returns the message of a request of a method, or of the opening of a stream, without its data.
func (c *Client) message(token string, inv *ipc.Invocation) (*nats.Msg, error) {
	if err := inv.Metadata.Check(); err != nil {
		return nil, err
	}
	subject := c.base() + token + "." + subjectOf(inv.Method.Name)
	if len(subject) > maxSubject {
		return nil, ipc.Errorf(ipc.CodeInvalidArgument, "tandem: the name of the method is too long for NATS: a subject of %d bytes, most allowed are %d", len(subject), maxSubject)
	}
	m := &nats.Msg{Subject: subject, Header: make(nats.Header, 2)}
	setMetadata(m, headerMeta, inv.Metadata)
	return m, nil
}

// awaitConnection waits until the connection is up. Otherwise NATS would keep the request, and send it when its
// time is over.
func (c *Client) awaitConnection(ctx context.Context, inv *ipc.Invocation, over <-chan time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.nc.IsConnected() {
		return nil
	}
	changed := c.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer c.nc.RemoveStatusListener(changed)
	for {
		switch {
		case c.nc.IsConnected():
			return nil
		case c.nc.IsClosed(), c.nc.IsDraining():
			return c.unsent(nats.ErrConnectionClosed)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-over:
			return timedOut(inv, inv.Timeout)
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
	switch answer := m.Header.Get(headerAnswer); answer {
	case answerOK:
		if m.Reply != answerMark {
			return nil, ipc.Errorf(ipc.CodeInternal, "%w: an answer over NATS that no service has sent; is there a JetStream stream of the subject of requests?", ipc.ErrProtocol)
		}
		if len(m.Data) > c.maxMessage {
			return nil, tooLarge(len(m.Data), c.maxMessage)
		}
		return m.Data, nil
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
		return nil, ipc.Errorf(ipc.CodeInternal, "%w: an answer over NATS that says %q", ipc.ErrProtocol, answer)
	}
}
