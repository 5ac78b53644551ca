package natsipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tandemipc/tandem/drivers/nats/internal/flow"
	"github.com/tandemipc/tandem/ipc"
)

// opened takes the opening of a stream. One goroutine calls it, so it does not wait.
func (h *host) opened(m *nats.Msg) {
	if !mayAnswer(m.Reply) {
		h.svc.Logger.Warn("tandem: a stream over NATS that nobody receives was dropped", "subject", m.Subject)
		return
	}
	begun := time.Now()
	select {
	case h.streams <- struct{}{}:
	default:
		h.refuseStream(m, begun, ipc.Errorf(ipc.CodeResourceExhausted, "tandem: the service %q has %d streams already", h.svc.Name, h.svc.Streams))
		return
	}
	if !h.enter() {
		<-h.streams
		return
	}
	go func() {
		defer h.running.Done()
		if refusal := h.serveStream(m, begun); refusal != nil {
			h.refuseStream(m, begun, refusal)
		}
	}()
}

// refuseStream tells a caller that its stream is not served.
func (h *host) refuseStream(m *nats.Msg, begun time.Time, err error) {
	if sent := flow.Refuse(h.nc, m.Reply, err); sent != nil {
		h.svc.Logger.Warn("tandem: a stream could not be refused over NATS", "error", sent)
	}
	h.stats.note(m.Subject, time.Since(begun), err)
}

// serving of a stream: what comes from the caller goes to who answers, and back.
type streamServing struct {
	host   *host
	header *callHeader
	begun  time.Time
	flow   *flow.Flow
	cancel context.CancelCauseFunc // gives the stream up
	head   ipc.Metadata            // of the answer, as far as it is known
	trail  ipc.Metadata
	told   int // how many fields of head the caller has
}

// serveStream serves a stream, or returns why it does not. It leaves the stream's place before whoever calls says so to the caller, which may try again
// at once.
func (h *host) serveStream(m *nats.Msg, begun time.Time) (refusal error) {
	defer func() { <-h.streams }()
	p, err := h.parse(m, tokenStream, m.Header.Get(headerCall))
	if err != nil {
		return err
	}
	inv := new(ipc.Invocation)
	if err := h.invocation(m, &p, m.Data, inv); err != nil {
		return err
	}
	caller, header := p.caller, &p.header
	opening, err := parseStream(m.Header.Get(headerStream))
	if err == nil && len(m.Data) > maxFirst {
		err = ipc.Errorf(ipc.CodeInvalidArgument, "%w: the opening of a stream has %d bytes, most allowed are %d", ipc.ErrProtocol, len(m.Data), maxFirst)
	}
	if err != nil {
		return err
	}
	to, ok := caller.(ipc.StreamCaller)
	if !ok && !opening.call {
		return ipc.Errorf(ipc.CodeUnimplemented, "tandem: the service %q has no streams", h.svc.Name)
	}
	f, err := h.port.Accept(m.Reply, opening.granted, bounded(header.heartbeat), nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(h.ctx)
	defer cancel(nil)
	s := &streamServing{host: h, header: header, begun: begun, flow: f, cancel: cancel}
	f.Notify(s.over)
	if opening.lasting {
		unwatch := s.endWhenDraining(ctx)
		defer unwatch()
	}
	inv.Header, inv.Trailer = &s.head, &s.trail
	if opening.call {
		subject := strings.Replace(m.Subject, h.base+tokenStream, h.base+tokenCall, 1)
		returned := false
		defer func() {
			if !returned { // the handler has ended the goroutine
				s.end(ctx, errExited)
				h.stats.note(subject, time.Since(begun), errExited)
			}
		}()
		err := s.call(ctx, caller, inv, m, opening.first)
		returned = true
		s.end(ctx, err)
		h.stats.note(subject, time.Since(begun), withoutEOF(err))
		return nil
	}
	over := make(chan struct{})
	o := &ipc.StreamOpening{Lasting: opening.lasting, OnEnd: func(error) { close(over) }}
	if opening.first {
		if o.First, o.Only = m.Data, opening.only; header.attached {
			o.First, o.Attached, err = unpack(m.Data, false)
		}
	}
	var st ipc.Stream
	if err == nil {
		st, err = to.OpenStream(ctx, inv, o)
		o.Attached.Release()
	}
	m.Data, m.Header = nil, nil // a stream may last, and there may be many
	if err == nil {
		received := make(chan struct{})
		go func() {
			defer close(received)
			s.receive(ctx, st)
		}()
		if err = s.send(ctx, st); err == io.EOF {
			err = s.ended(ctx, st, over)
		}
		st.Close() // if it is not over
		defer func() { <-received }()
	}
	s.end(ctx, err)
	cancel(nil)
	h.stats.note(m.Subject, time.Since(begun), withoutEOF(err))
	return nil
}

// withoutEOF returns nil for the end of a stream.
func withoutEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// clocks is how much later than the caller whoever answers may find that the time of a stream is over.
const clocks = time.Second

// over is called when the flow is over, and gives the stream up if it is not over itself.
func (s *streamServing) over(err error) {
	switch {
	case err == nil:
	case s.overdue(err):
		time.AfterFunc(clocks, func() { s.cancel(errCanceled) }) // it was another time, or the caller's clock is fast
	default:
		s.cancel(errCanceled)
	}
}

// overdue reports whether err says that the time of the stream is over. Whoever answers knows that time as well, and so ends
// the context of its handler with the right error.
func (s *streamServing) overdue(err error) bool {
	return s.header.timeout > 0 && ipc.CodeOf(err) == ipc.CodeDeadlineExceeded
}

// endWhenDraining gives the stream up when the service is to end, since it has no end of its own.
func (s *streamServing) endWhenDraining(ctx context.Context) (unwatch func()) {
	ctx, stop := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.host.draining:
			s.cancel(errEnding)
		case <-ctx.Done():
		}
	}()
	return stop
}

// receive gives what comes from the caller to who answers.
func (s *streamServing) receive(ctx context.Context, st ipc.Stream) {
	for {
		item, err := s.flow.Receive(ctx)
		switch {
		case err == io.EOF:
			_ = st.CloseSend(ctx) // send finds out how it has ended
			return
		case err != nil:
			s.over(err) // or ctx has ended
			return
		}
		if s.flow.Attached() {
			err = sendAttached(ctx, st, item)
		} else {
			err = st.Send(ctx, item)
		}
		if err == nil && !s.flow.Buffered() {
			err = st.Flush(ctx)
		}
		var size *ipc.SizeError
		switch {
		case errors.Is(err, ipc.ErrProtocol), errors.Is(err, ipc.ErrUnsupported), errors.Is(err, ipc.ErrExhausted), errors.As(err, &size):
			s.flow.Abort(err) // it would go on without the item
			return
		case err != nil:
			s.flow.TakeNoMore() // send finds out how it has ended
			return
		}
	}
}

// send gives what comes from who answers to the caller, and returns how that ends: io.EOF after the last item.
func (s *streamServing) send(ctx context.Context, st ipc.Stream) error {
	attached, _ := st.(ipc.AttachedStream)
	for overdue := false; ; {
		item, err := st.Receive(ctx)
		if err != nil {
			return err
		}
		buffers := false
		if attached != nil {
			a := attached.Attachments()
			if buffers = !a.Empty(); buffers {
				item, err = pack(item, a, s.host.svc.MaxMessage)
			}
			if a.Release(); err != nil {
				return err
			}
		}
		if overdue {
			continue
		}
		err = s.sendItem(ctx, item, buffers)
		if overdue = err != nil && s.overdue(err); err != nil && !overdue {
			return err
		}
	}
}

// ended returns how a stream has ended after whose last item io.EOF has come. If whoever answers has only closed its sending, the caller is told, and
// ended waits until over is closed.
func (s *streamServing) ended(ctx context.Context, st ipc.Stream, over <-chan struct{}) error {
	if !ipc.Ended(st) {
		if err := s.flow.CloseSend(ctx); err != nil {
			return err
		}
		select {
		case <-over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	_, err := st.Receive(ctx)
	return err
}

// sendAttached sends an item that has come with buffers on.
func sendAttached(ctx context.Context, st ipc.Stream, packed []byte) error {
	to, ok := st.(ipc.AttachedStream)
	if !ok {
		return ipc.NoAttachments(st)
	}
	item, a, err := unpack(packed, true)
	if err != nil {
		return err
	}
	defer a.Release()
	return to.SendAttached(ctx, item, a)
}

// sendItem sends the caller an item, which has buffers if attached is set, after what there is of the header.
func (s *streamServing) sendItem(ctx context.Context, item []byte, attached bool) error {
	if len(s.head) > s.told {
		note, err := streamNote{Header: s.head[s.told:]}.encode()
		if err == nil {
			err = s.flow.Note(ctx, note)
		}
		if err != nil {
			return err
		}
		s.told = len(s.head)
	}
	return sendItem(ctx, s.flow, item, attached)
}

// end tells the caller how the stream has ended, after all that was sent, unless the caller has given it up.
func (s *streamServing) end(ctx context.Context, err error) {
	if err == io.EOF {
		err = nil
	} else {
		err = s.failure(ctx, err)
	}
	note, failed := streamNote{s.head[s.told:], s.trail}.encode()
	if failed != nil && err == nil {
		err = failed
	}
	// The handler has returned, so its time and what it is told do not count.
	last, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(s.host.ctx, func() { cancel(gone(errEnding)) })()
	s.flow.End(last, note, err)
}

// gone is the error of a stream whose answering side is gone, because of err.
func gone(err error) error {
	return fmt.Errorf("%w: %w", ipc.ErrPeerGone, ipc.NewError(ipc.CodeUnavailable, err.Error()))
}

// failure returns the error that the caller gets of a stream that has failed.
func (s *streamServing) failure(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errEnding) {
		return gone(errEnding)
	}
	switch answer, _ := s.host.failure(err, s.header, time.Since(s.begun)); answer {
	case answerGone:
		return gone(err)
	case answerOverdue:
		return context.DeadlineExceeded
	}
	return err
}
