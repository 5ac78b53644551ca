package natsipc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tandemipc/tandem/drivers/nats/internal/flow"
	"github.com/tandemipc/tandem/ipc"
)

var _ ipc.StreamCaller = (*Client)(nil)

// OpenStream implements [ipc.StreamCaller]. It waits until a server has taken the stream.
func (c *Client) OpenStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	return c.calls.(ipc.StreamCaller).OpenStream(ctx, inv, o)
}

// OpenStream implements [ipc.StreamCaller]. A stream is never opened again by itself.
func (c retrier) OpenStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	return c.tries.(ipc.StreamCaller).OpenStream(ctx, inv, o)
}

// maxFirst is the largest first item that goes with the opening of a stream.
const maxFirst = 64 << 10

// OpenStream implements [ipc.StreamCaller].
func (c attempt) OpenStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	own := opening{StreamOpening: *o, attached: !o.Attached.Empty()}
	if own.attached {
		var err error
		if own.First, err = pack(o.First, o.Attached, c.maxMessage); err != nil {
			return nil, err
		}
	}
	if len(own.First) > c.maxMessage {
		return nil, &ipc.SizeError{Size: len(own.First), Limit: c.maxMessage}
	}
	subject, err := c.subject(tokenStream, inv)
	if err != nil {
		return nil, err
	}
	st, err := c.openStream(ctx, inv, message(subject, inv), &own)
	if err != nil {
		return nil, err
	}
	return st, nil
}

// opening says how a stream begins.
type opening struct {
	ipc.StreamOpening
	attached bool // First has buffers
	call     bool // it is a call that travels as a stream
}

// openStream opens a stream, or a call that travels as one, by sending m.
func (c *Client) openStream(ctx context.Context, inv *ipc.Invocation, m *nats.Msg, o *opening) (*clientStream, error) {
	st := &clientStream{method: inv.Method.Name, meta: streamMeta{new(ipc.Metadata), new(ipc.Metadata)}, late: context.DeadlineExceeded, maxMessage: c.maxMessage}
	if inv.Header != nil {
		*inv.Header, st.meta.header = nil, inv.Header
	}
	if inv.Trailer != nil {
		*inv.Trailer, st.meta.trailer = nil, inv.Trailer
	}
	stop := func() {}
	if inv.Timeout > 0 {
		ours := timedOut(inv, inv.Timeout)
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > inv.Timeout {
			st.late = ours
		}
		ctx, stop = context.WithTimeoutCause(ctx, inv.Timeout, ours)
	}
	st.ctx = ctx
	if err := c.open(ctx, inv, m, o, st); err != nil {
		if ctx.Err() != nil {
			err = st.ended()
		}
		stop()
		return nil, err
	}
	unwatch := context.AfterFunc(ctx, func() { st.flow.Abort(st.ended()) })
	onEnd := o.OnEnd // and no other part of o, which may have a large item
	st.flow.Notify(func(err error) {
		unwatch()
		stop()
		if onEnd != nil {
			onEnd(st.told(err))
		}
	})
	return st, nil
}

// open opens st.
func (c *Client) open(ctx context.Context, inv *ipc.Invocation, m *nats.Msg, o *opening, st *clientStream) error {
	if _, err := c.awaitConnection(ctx, inv, nil); err != nil {
		return err
	}
	header := callHeader{id: inv.Method.ID, codec: c.codec.Name(), order: byteOrder, heartbeat: c.heartbeat, attempts: inv.Attempts, oneWay: inv.OneWay, idempotent: inv.Idempotent, attached: o.attached}
	if _, err := header.bound(ctx); err != nil {
		return st.late
	}
	port, err := c.flows()
	if err != nil {
		return err
	}
	if st.flow, err = port.Open(c.base()+tokenFlow+".", st.meta.take); err != nil {
		return err
	}
	m.Reply = st.flow.Subject()
	m.Header[headerCall] = []string{header.String()}
	says := streamHeader{granted: st.flow.Granted(), only: o.Only, lasting: o.Lasting, call: o.call}
	const room = 64 // for the header
	if says.first = o.First != nil && len(o.First) <= maxFirst && int64(m.Size()+len(o.First)+room) <= c.nc.MaxPayload(); says.first {
		m.Data = o.First
	} else {
		says.only = false
	}
	m.Header[headerStream] = []string{says.String()}
	if err = c.nc.PublishMsg(m); err != nil {
		err = c.notPublished(m, err)
	} else if err = st.flow.Opened(ctx); err == nil {
		err = st.begin(ctx, o, says.first)
	}
	if err != nil {
		st.flow.Abort(err) // or it is over
	}
	return err
}

// flows returns the port of the client's streams.
func (c *Client) flows() (*flow.Port, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ipc.ErrClosed
	}
	if c.port == nil {
		port, err := flow.Listen(c.nc, c.nc.NewInbox(), flow.Config{Beat: c.heartbeat, MaxItem: c.maxMessage, Window: int64(c.window)})
		if err != nil {
			return nil, err
		}
		c.port = port
	}
	return c.port, nil
}

// clientStream is a stream on the side that has opened it.
type clientStream struct {
	flow   *flow.Flow
	method string
	meta   streamMeta
	ctx    context.Context // of the whole stream
	late   error           // of a deadline that has passed

	maxMessage int
	attached   *ipc.Attachments // of the item that Receive has returned last
}

var (
	_ ipc.MemoryStream = (*clientStream)(nil)
	_ ipc.WideStream   = (*clientStream)(nil)
	_ ipc.PartStream   = (*clientStream)(nil)
	_ ipc.EndedStream  = (*clientStream)(nil)
)

// begin sends the first item, unless it was sent.
func (s *clientStream) begin(ctx context.Context, o *opening, sent bool) error {
	var err error
	if o.First != nil && !sent {
		err = sendItem(ctx, s.flow, o.First, o.attached)
	}
	if err == nil && o.Only {
		err = s.flow.CloseSend(ctx)
	}
	if err != nil && ctx.Err() == nil && s.flow.Err() != nil {
		return nil // Receive tells how it has ended
	}
	return err
}

// ended returns why a stream ends whose context has ended.
func (s *clientStream) ended() error {
	if err := s.ctx.Err(); errors.Is(err, context.Canceled) {
		return err
	}
	return s.late
}

// told returns what a method returns in the place of err. If the server has found first that the time is
// over, it is as if this side had.
func (s *clientStream) told(err error) error {
	if e, ok := err.(*ipc.Error); ok && e.Remote() && e.Code == ipc.CodeDeadlineExceeded {
		if deadline, ok := s.ctx.Deadline(); ok && time.Until(deadline) <= 0 {
			return s.late
		}
	}
	return err
}

// Send implements [ipc.Stream].
func (s *clientStream) Send(ctx context.Context, item []byte) error {
	return s.told(s.flow.Send(ctx, item))
}

// SendAttached implements [ipc.AttachedStream].
func (s *clientStream) SendAttached(ctx context.Context, item []byte, a *ipc.Attachments) error {
	if a.Empty() {
		return s.Send(ctx, item)
	}
	packed, err := pack(item, a, s.maxMessage)
	if err != nil {
		return err
	}
	return s.told(s.flow.SendAttached(ctx, packed))
}

// Attachments implements [ipc.AttachedStream].
func (s *clientStream) Attachments() *ipc.Attachments {
	a := s.attached
	s.attached = nil
	return a
}

// SharesMemory implements [ipc.MemoryStream].
func (s *clientStream) SharesMemory() bool { return false }

// SendPart implements [ipc.PartStream].
func (s *clientStream) SendPart(ctx context.Context, b []byte) (int, error) {
	n, err := s.flow.SendPart(ctx, b)
	return n, s.told(err)
}

// Claim implements [ipc.Stream].
func (s *clientStream) Claim(ctx context.Context, n int) ([]byte, error) {
	b, err := s.flow.Claim(ctx, n)
	return b, s.told(err)
}

// Commit implements [ipc.Stream].
func (s *clientStream) Commit(ctx context.Context, n int) error {
	return s.told(s.flow.Commit(ctx, n))
}

// Flush implements [ipc.Stream].
func (s *clientStream) Flush(ctx context.Context) error { return s.told(s.flow.Flush(ctx)) }

// CloseSend implements [ipc.Stream].
func (s *clientStream) CloseSend(ctx context.Context) error { return s.told(s.flow.CloseSend(ctx)) }

// Receive implements [ipc.Stream].
func (s *clientStream) Receive(ctx context.Context) ([]byte, error) {
	s.attached.Release() // of the last item, if nobody has taken them
	s.attached = nil
	b, err := s.flow.Receive(ctx)
	if err == nil && s.flow.Attached() {
		if b, s.attached, err = unpack(b, true); err != nil {
			s.flow.Abort(err)
		}
	}
	return b, s.told(err)
}

// Widen implements [ipc.WideStream].
func (s *clientStream) Widen(ctx context.Context, n int) { s.flow.Widen(ctx, n) }

// Ended implements [ipc.EndedStream].
func (s *clientStream) Ended() bool { return s.flow.Err() != nil }

// errStreamClosed is what the methods of a stream return after Close.
var errStreamClosed = fmt.Errorf("%w: the stream was closed", ipc.ErrClosed)

// Close implements [ipc.Stream].
func (s *clientStream) Close() { s.flow.Abort(errStreamClosed) }
