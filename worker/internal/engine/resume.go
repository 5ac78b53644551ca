package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Calls that survive the end of their link, the host's side. The worker's side is in
// replay.go.
//
// The first frame of each link gives it a number. A call whose link was disconnected
// waits for the next link, and asks there for its answer, by a frame that names the
// number of its link and its tx. The worker sends the answer when there is one. If it
// never received the request, or could not keep the answer, it sends an error. A
// request is never sent twice.

// CallKey names a call beyond the life of its link.
type CallKey struct {
	Link uint64 // the number of its link
	Tx   uint64 // its tx there
}

const callKeySize = 16

func (k CallKey) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, k.Link)
	return binary.LittleEndian.AppendUint64(b, k.Tx)
}

// linkNumbers counts the links of this process: a worker that was left and attached
// again still knows the old ones.
var linkNumbers atomic.Uint64

// NumberLink gives a link a number that no other link of this process has, and tells
// the worker. It is called before anything else is sent.
func NumberLink(ctx context.Context, link drivers.Link) uint64 {
	n := linkNumbers.Add(1)
	f := drivers.Frame{Kind: drivers.KindResume, Payload: binary.LittleEndian.AppendUint64(nil, n)}
	_ = link.Send(ctx, &f) // it has room; if the link has ended the session finds out
	return n
}

// Resumer is what a host's session knows of the links after it.
type Resumer interface {
	// Next waits for a session after s, until ctx ends or until, by the clock of
	// [Monotonic], is over; 0 is never. Then the error is [ErrTimeout].
	Next(ctx context.Context, s *Session, until time.Duration) (*Session, error)
	// Forget makes the worker end calls that nobody waits for any more, and that it
	// could not be told of over the link of s.
	Forget(s *Session, keys ...CallKey)
}

// Until returns how long it is until a time of the clock of a [Resumer].
func Until(t time.Duration) time.Duration { return t - monotonic() }

// MaxForgotten bounds the calls that a [Resumer] remembers to forget.
const MaxForgotten = maxCalls

// errNotKept is how a worker answers for a call that it cannot resume.
var errNotKept = errors.New("tandem: the worker has not received the request, or could not keep its answer")

func init() { ipc.RegisterError("tandem.not_kept", errNotKept) }

// resumable reports whether a call that ended with err, and was sent, may get its
// answer over another link.
func (s *Session) resumable(err error) bool {
	return s.config.Resumer != nil && errors.Is(err, ipc.ErrDisconnected) && !errors.Is(err, ipc.ErrClosed)
}

// resume waits for the answer of a call whose link, that of s, has ended.
func (s *Session) resume(ctx context.Context, k CallKey, inv *ipc.Invocation, memory []byte, timeout, deadline time.Duration) ([]byte, error) {
	resumer := s.config.Resumer
	for {
		next, err := resumer.Next(ctx, s, deadline)
		var response []byte
		if err == nil {
			response, err = next.ask(ctx, k, inv, memory, deadline)
		}
		var over *ipc.TimeoutError
		switch {
		case err == nil:
			return response, nil
		case errors.Is(err, errNotKept):
			return nil, fmt.Errorf("%w: %w", ipc.ErrDisconnected, errNotKept)
		case errors.Is(err, ErrTimeout), errors.As(err, &over):
			resumer.Forget(s, k)
			return nil, TimedOut(inv.Method.Name, timeout)
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			resumer.Forget(s, k)
			return nil, err
		case next == nil || !next.resumable(err):
			return nil, nameMethod(err, &inv.Method)
		}
		s = next
	}
}

// ask asks for the answer of a call of an earlier link, and waits for it.
func (s *Session) ask(ctx context.Context, k CallKey, inv *ipc.Invocation, memory []byte, deadline time.Duration) ([]byte, error) {
	var timeout time.Duration
	if deadline > 0 {
		if timeout = Until(deadline); timeout <= 0 {
			return nil, ErrTimeout
		}
	}
	c, tx, err := s.calls.register(memory)
	if err != nil {
		return nil, err
	}
	if deadline > 0 {
		c.deadline.Store(int64(deadline))
	}
	err = s.sendControl(ctx, &c.send, timeout, &drivers.Frame{Kind: drivers.KindResume, Tx: tx, Payload: k.append(nil)})
	if err != nil {
		if c.giveUp() {
			s.calls.release(c)
			return nil, err
		}
	} else if err := s.await(ctx, c, timeout, nil); err != nil {
		s.calls.release(c)
		go s.sendCancel(tx, drivers.ReasonGivenUp)
		return nil, err
	}
	response, err := c.response, c.err
	deliver(c.meta, inv)
	c.giveAttached(inv)
	s.calls.release(c)
	return response, err
}

// sendControl sends a frame that takes nothing of a window.
func (s *Session) sendControl(ctx context.Context, c *sendContext, timeout time.Duration, f *drivers.Frame) error {
	err := s.link.Send(c.bind(ctx, timeout), f)
	ranOut := c.release()
	switch {
	case err == nil:
		return nil
	case ranOut && ctx.Err() == nil:
		return ErrTimeout
	}
	return s.whyUnsent(ctx, err)
}

// Forget tells the worker that nobody waits for the answers of calls of earlier links.
func (s *Session) Forget(keys []CallKey) {
	ctx, cancel := context.WithTimeout(s.baseCtx, time.Second)
	defer cancel()
	for i, k := range keys {
		c, tx, err := s.calls.register(nil)
		again := err != nil
		if !again {
			again = !s.trySendCancel(ctx, tx, k, drivers.Frame{Kind: drivers.KindResume, Tx: tx, Payload: k.append(nil)}, drivers.Frame{Kind: drivers.KindCancel, Tx: tx})
			c.giveUp()
			s.calls.release(c)
		}
		if again {
			s.config.Resumer.Forget(s, keys[i:]...)
			return
		}
	}
}
