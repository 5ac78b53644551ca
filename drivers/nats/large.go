package natsipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tandemipc/tandem/drivers/nats/internal/flow"
	"github.com/tandemipc/tandem/ipc"
)

// A request that is too large for a message of NATS travels as a stream does, and so does its response: the opening
// says that it is a call. A response to any other request that is too large stays where it is until the caller
// fetches it: the server says with each heartbeat that there is one, and the caller opens a flow by a message to the
// subject of controls.

// sendLarge makes one attempt of a call with a request that is too large for a message, and has buffers if attached is set. The call
// has to end at this time, if it has a timeout.
func (c *Client) sendLarge(ctx context.Context, inv *ipc.Invocation, request []byte, attached bool, end time.Time) ([]byte, error) {
	subject, err := c.subject(tokenStream, inv)
	if err != nil {
		return nil, err
	}
	return c.receiveLarge(ctx, inv, message(subject, inv), &opening{StreamOpening: ipc.StreamOpening{First: request, Only: true}, attached: attached, call: true}, end)
}

// fetch fetches a response that is too large for a message, as answer says.
func (c *Client) fetch(ctx context.Context, inv *ipc.Invocation, answer *nats.Msg, end time.Time) ([]byte, error) {
	control := answer.Header.Get(headerControl)
	size, err := strconv.Atoi(string(answer.Data))
	if err != nil || size < 0 {
		return nil, ipc.Errorf(ipc.CodeInternal, "%w: an answer over NATS of %q bytes", ipc.ErrProtocol, answer.Data)
	}
	if size > c.maxMessage {
		c.tell(control, controlCancel)
		return nil, tooLarge(size, c.maxMessage)
	}
	m := &nats.Msg{Subject: control, Header: make(nats.Header, 2)}
	b, err := c.receiveLarge(ctx, inv, m, &opening{call: true}, end)
	if err != nil {
		c.tell(control, controlCancel)
	}
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, errNothing) { // it was called, so this is not that nobody serves
		err = fmt.Errorf("%w: %w", ipc.ErrPeerGone, ipc.Errorf(ipc.CodeUnavailable, "tandem: the server of %q ended before its response was fetched", inv.Method.Name))
	}
	return b, err
}

func tooLarge(size, limit int) error {
	return ipc.Errorf(ipc.CodeResourceExhausted, "tandem: a response of %d bytes, largest allowed %d", size, limit)
}

// receiveLarge opens a call that travels as a stream, by sending m, and returns the response.
func (c *Client) receiveLarge(ctx context.Context, inv *ipc.Invocation, m *nats.Msg, o *opening, end time.Time) ([]byte, error) {
	own := *inv
	if own.Timeout > 0 {
		own.Timeout = max(time.Until(end), 1)
	}
	var b []byte
	st, err := c.openStream(ctx, &own, m, o)
	if err == nil {
		defer st.Close()
		b, err = st.response(ctx, inv)
	}
	var timeout *ipc.TimeoutError
	if errors.As(err, &timeout) && inv.Timeout > 0 { // of what was left
		err = timedOut(inv, inv.Timeout)
	}
	return b, err
}

// response receives the only item of a call that travels as a stream.
func (s *clientStream) response(ctx context.Context, inv *ipc.Invocation) ([]byte, error) {
	item, err := s.Receive(ctx)
	if err == io.EOF {
		return nil, ipc.Errorf(ipc.CodeInternal, "%w: no response to a call of %q", ipc.ErrProtocol, s.method)
	}
	if err != nil {
		return nil, err
	}
	response, a := slices.Clone(item), s.Attachments()
	switch _, err = s.Receive(ctx); err { // which has the trailer
	case io.EOF:
		give(inv, a)
		return response, nil
	case nil:
		err = ipc.Errorf(ipc.CodeInternal, "%w: two responses to a call of %q", ipc.ErrProtocol, s.method)
	}
	a.Release()
	return nil, err
}

// largeAtOnce is how many requests that are too large for a message a service has in memory at once, each of MaxMessage at most. Others
// wait, at their senders.
const largeAtOnce = 16

// call serves a call that travels as a stream. It returns io.EOF when the response was sent.
func (s *streamServing) call(ctx context.Context, caller ipc.Caller, inv *ipc.Invocation, m *nats.Msg, first bool) error {
	request := m.Data
	if t := s.header.timeout; t > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, s.begun.Add(t))
		defer stop()
	}
	if !first {
		select {
		case s.host.large <- struct{}{}:
			defer func() { <-s.host.large }()
		case <-ctx.Done():
			return ctx.Err()
		case <-s.flow.Done():
			return s.flow.Err()
		}
		var err error
		if request, err = s.flow.Receive(ctx); err != nil {
			if err == io.EOF {
				err = ipc.Errorf(ipc.CodeInvalidArgument, "%w: a call without a request", ipc.ErrProtocol)
			}
			return err
		}
	}
	if inv.Timeout > 0 {
		inv.Timeout = max(s.header.timeout-time.Since(s.begun), 1) // the caller's has begun before
	}
	var a answer
	response, err := s.host.invoke(ctx, caller, inv, request, s.header.attached, nil, &a)
	if err == nil {
		err = s.sendItem(ctx, response, a.kind == answerBuffers)
	}
	if err == nil {
		err = io.EOF
	}
	return err
}

// isLarge reports whether a response is too large for a message, or may be.
func (h *host) isLarge(response []byte, a *answer) bool {
	const others, field = 256, 32
	return int64(len(response)+3*(a.header.Size()+a.trailer.Size())+field*(len(a.header)+len(a.trailer))+others) > h.nc.MaxPayload()
}

// hand hands a response over that is too large for a message, with the metadata of a, when the caller fetches it. handed says that the
// caller is told how that has ended, and needs no other answer.
func (h *host) hand(ctx context.Context, s *serving, header *callHeader, begun time.Time, response []byte, a *answer) (handed bool, err error) {
	fetch := make(chan *nats.Msg, 1)
	s.mu.Lock()
	s.large, s.size, s.fetch = true, len(response), fetch
	s.mu.Unlock()
	s.beat()
	var m *nats.Msg
	select {
	case m = <-fetch:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	opening, err := parseStream(m.Header.Get(headerStream))
	var f *flow.Flow
	if err == nil {
		f, err = h.port.Accept(m.Reply, opening.granted, s.interval, nil)
	}
	if err != nil {
		_ = flow.Refuse(h.nc, m.Reply, err) // or the caller misses heartbeats
		return false, err
	}
	s.end() // the flow has heartbeats of its own
	f.Notify(func(error) { s.cancel(errCanceled) })
	to := &streamServing{host: h, header: header, begun: begun, flow: f, cancel: s.cancel, head: a.header, trail: a.trailer}
	if err = to.sendItem(ctx, response, a.kind == answerBuffers); err == nil {
		err = io.EOF
	}
	to.end(ctx, err)
	return true, withoutEOF(err)
}
