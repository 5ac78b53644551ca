package worker

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

// Calls that survive the end of their link, the host's side. The worker's side is
// in afterlife.go.
//
// The first frame of each link gives it a number. A call whose link was
// disconnected waits for the next one, and asks there, by a frame that names the
// number of its link and its tx, for the answer. The worker sends it when it has
// it, or an error if it never received the request or could not keep the answer. A
// request is never sent twice.

// WithResume makes calls survive a disconnection: those that are pending when the
// link is disconnected, and were received by the worker, wait for the channel to
// reconnect, within their contexts and limits, and get their answers then. Handlers
// run once, and each answer is delivered once. The worker keeps up to maxBytes of
// answers meanwhile; one beyond that is dropped, and its call fails with
// [ipc.ErrDisconnected], and so does one that the worker had not received. The end
// of the process, Close and Detach end the waiting, and it ends for good when
// another host takes the worker over. Calls that begin while there is no link fail at
// once.
//
// Spawn fails, with an error that wraps [ipc.ErrUnsupported], if the driver cannot
// reconnect. WithResume panics unless maxBytes is more than 0. A worker that is
// attached keeps what its first host has said.
func WithResume(maxBytes int) Option {
	if maxBytes <= 0 {
		panic(fmt.Sprintf("tandem: WithResume of %d bytes, need more than 0", maxBytes))
	}
	return func(o *options) { o.resume = maxBytes }
}

func (o *options) checkResume(driver string, caps drivers.Capabilities) error {
	if o.resume > 0 && !caps.Reconnect {
		return fmt.Errorf("%w: driver %s cannot reconnect, so that WithResume makes no sense", ipc.ErrUnsupported, driver)
	}
	return nil
}

// callKey names a call beyond the life of its link: by the number of the link and
// its tx there.
type callKey struct{ link, tx uint64 }

const callKeySize = 16

func (k callKey) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, k.link)
	return binary.LittleEndian.AppendUint64(b, k.tx)
}

// linkNumbers counts the links of this process: a worker that was left and attached
// again still knows the old ones.
var linkNumbers atomic.Uint64

// numberFrame gives a link its number.
func numberFrame(n uint64) drivers.Frame {
	return drivers.Frame{Kind: drivers.KindResume, Payload: binary.LittleEndian.AppendUint64(nil, n)}
}

// resumer is what a host's session knows of the links after it.
type resumer interface {
	// next waits for a session after s.
	next(ctx context.Context, s *session, deadline time.Time) (*session, error)
	// forget makes the worker end a call that nobody waits for any more, and that
	// it could not be told of over the link of s.
	forget(s *session, k ...callKey)
}

// errNotKept is how a worker answers for a call that it cannot resume.
var errNotKept = errors.New("tandem: the worker has not received the request, or could not keep its answer")

func init() { ipc.RegisterError("tandem.not_kept", errNotKept) }

// resumable reports whether a call that ended with err, and was sent, may get its
// answer over another link.
func (s *session) resumable(err error) bool {
	return s.resumer != nil && errors.Is(err, ipc.ErrDisconnected) && !errors.Is(err, ipc.ErrClosed)
}

// resume waits for the answer of a call whose link, that of s, has ended.
func (s *session) resume(ctx context.Context, k callKey, inv ipc.Invocation, limit time.Duration, deadline time.Time) ([]byte, error) {
	for {
		next, err := s.resumer.next(ctx, s, deadline)
		var response []byte
		if err == nil {
			response, err = next.ask(ctx, k, inv, deadline)
		}
		var over *ipc.TimeoutError
		switch {
		case err == nil:
			return response, nil
		case errors.Is(err, errNotKept):
			return nil, fmt.Errorf("%w: %w", ipc.ErrDisconnected, errNotKept)
		case errors.Is(err, errTimeout), errors.As(err, &over):
			s.resumer.forget(s, k)
			return nil, timedOut(inv.Method.Name, limit)
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			s.resumer.forget(s, k)
			return nil, err
		case next == nil || !next.resumable(err):
			return nil, s.nameMethod(err, inv.Method)
		}
		s = next
	}
}

// ask asks for the answer of a call of an earlier link, and waits for it.
func (s *session) ask(ctx context.Context, k callKey, inv ipc.Invocation, deadline time.Time) ([]byte, error) {
	var limit time.Duration
	if !deadline.IsZero() {
		if limit = time.Until(deadline); limit <= 0 {
			return nil, errTimeout
		}
	}
	c, tx, err := s.calls.add(inv.Response)
	if err != nil {
		return nil, err
	}
	err = s.send(ctx, &c.limit, limit, inv.Method.Name, drivers.Frame{Kind: drivers.KindResume, Tx: tx, Payload: k.append(nil)})
	if err != nil {
		if c.giveUp() {
			s.calls.remove(c)
			return nil, err
		}
	} else if err := s.await(ctx, c, limit); err != nil {
		s.calls.remove(c)
		go s.sendCancel(tx)
		return nil, err
	}
	response, err := c.response, c.err
	s.calls.remove(c)
	return response, err
}

// abandon tells the worker that nobody waits for the answers of these calls.
func (s *session) abandon(keys []callKey) {
	ctx, cancel := context.WithTimeout(s.baseCtx, time.Second)
	defer cancel()
	for i, k := range keys {
		c, tx, err := s.calls.add(nil)
		if err == nil {
			err = s.link.Send(ctx, drivers.Frame{Kind: drivers.KindResume, Tx: tx, Payload: k.append(nil)})
			if err == nil {
				err = s.link.Send(ctx, drivers.Frame{Kind: drivers.KindCancel, Tx: tx})
			}
			c.giveUp()
			s.calls.remove(c)
		}
		if err != nil {
			s.resumer.forget(s, keys[i:]...)
			return
		}
	}
}

// next waits for a session after s. It makes a life a [resumer].
func (l *life[C]) next(ctx context.Context, s *session, deadline time.Time) (*session, error) {
	var timeout <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		timeout = t.C
	}
	var closed <-chan struct{}
	if c, ok := any(l.channel).(drivers.Reconnectable); ok {
		closed = c.Done()
	}
	select {
	case <-s.replaced:
		return l.session.Load(), nil
	case <-l.channel.Process().Done():
		return nil, l.explain(s, ipc.ErrPeerGone)
	case <-closed:
		return nil, ipc.ErrDisconnected
	case <-l.client.ctx.Done():
		return nil, ipc.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timeout:
		return nil, errTimeout
	}
}

// forget makes the worker end calls as soon as there is a link after that of s.
func (l *life[C]) forget(s *session, k ...callKey) {
	l.mu.Lock()
	if len(l.forgotten) < maxCalls {
		l.forgotten = append(l.forgotten, k...)
	}
	l.mu.Unlock()
	if now := l.session.Load(); now.number > s.number {
		l.remind(now)
	}
}

// remind tells the worker what was forgotten, over the link of s, the present one.
func (l *life[C]) remind(s *session) {
	l.mu.Lock()
	forgotten := l.forgotten
	l.forgotten = nil
	l.mu.Unlock()
	if len(forgotten) > 0 {
		go s.abandon(forgotten)
	}
}

// numbered gives the next link its number, if calls are to survive its end. It is
// called before anything else is sent.
func (l *life[C]) numbered(link drivers.Link) uint64 {
	if l.client.opts.resume == 0 {
		return 0
	}
	n := linkNumbers.Add(1)
	_ = link.Send(l.client.ctx, numberFrame(n)) // it has room; if it has ended the session finds out
	return n
}
