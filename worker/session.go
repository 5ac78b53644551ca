package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// session runs calls and handlers over one link, in both directions. It is the
// same for hosts and workers, and ends when its link does.
type session struct {
	link     ipc.Link
	codec    ipc.Codec
	limits   ipc.Limits
	registry *registry
	log      *slog.Logger

	role      atomic.Uint64 // see role.go
	followers followers
	calls     calls
	standby   standby
	lazy      atomic.Bool // leave the role unarmed; set by the stand-by alone

	// With the reader role: how often it was left, and when that was last
	// looked at.
	leaves      uint
	densityFrom time.Time

	handling sync.WaitGroup  // keepers, the stand-by, and handlers in goroutines of their own
	running  running         // handlers that can be cancelled
	active   activity        // handlers that have not answered
	baseCtx  context.Context // of handlers
	cancel   context.CancelFunc

	// explain, if set, turns the error that ended the link into one that says
	// more, and may wait for a moment to do so.
	explain func(*session, error) error
	ending  atomic.Bool
	done    chan struct{} // closed when err is set and all calls have failed
	err     error

	goodbye     chan struct{} // closed when the peer has said goodbye
	goodbyeOnce sync.Once

	quiet    atomic.Bool   // set by the heartbeat; nothing was received since
	ponging  atomic.Bool   // a pong is being sent
	replaced chan struct{} // closed by the client when it has a later session

	// What outlives the link: see resume.go and afterlife.go. A worker's session
	// has an afterlife, and a host's a resumer if calls are to be resumed, which
	// then go by the number of their link.
	afterlife *afterlife
	resumer   resumer
	number    uint64

	refusing atomic.Int32  // refusals that are being sent
	late     atomic.Uint64 // answers to calls that were given up
}

// newSession starts a session. side is 0 for the host and 1 for the worker.
func newSession(link ipc.Link, side uint64, codec ipc.Codec, limits ipc.Limits, reg *registry, log *slog.Logger, explain func(*session, error) error) *session {
	s := prepareSession(link, side, codec, limits, reg, log, explain)
	s.begin()
	return s
}

// prepareSession makes a session that does not read yet.
func prepareSession(link ipc.Link, side uint64, codec ipc.Codec, limits ipc.Limits, reg *registry, log *slog.Logger, explain func(*session, error) error) *session {
	s := &session{
		link: link, codec: codec, limits: limits, registry: reg, log: log, explain: explain,
		done: make(chan struct{}), goodbye: make(chan struct{}), replaced: make(chan struct{}),
	}
	s.calls.side = side
	s.base(context.Background())
	return s
}

// base sets the context that those of the handlers come from.
func (s *session) base(ctx context.Context) {
	if s.cancel != nil {
		s.cancel()
	}
	s.baseCtx, s.cancel = context.WithCancel(context.WithValue(ctx, sessionKey{}, s))
}

func (s *session) begin() {
	s.link.Arm()
	s.startKeeper(0, false)
}

type sessionKey struct{}

// lead is a caller's reading: until its own call is settled, or nothing comes
// for a while, or its context has ended. It leaves the role.
func (s *session) lead(ctx context.Context, c *call, limit time.Duration) {
	for empty, frames := 1, 0; ; {
		f, ok, err := s.link.Next()
		if err != nil {
			s.lost(err)
			s.leave(false)
			return
		}
		if ok {
			if h := s.receive(f); h != nil {
				// A caller does not run other people's handlers.
				s.runConcurrently(h)
			}
			if c.done() {
				s.leave(true)
				return
			}
			// A peer that goes on sending does not make our time longer.
			if frames++; frames%64 == 0 && (ctx.Err() != nil || limit > 0 && time.Now().After(c.deadlineOf(limit))) {
				s.leave(true)
				return
			}
			continue
		}
		if empty++; empty%64 == 0 {
			if c.done() || ctx.Err() != nil || s.ending.Load() {
				s.leave(true)
				return
			}
			if limit > 0 && empty%4096 == 0 {
				// An answer that comes sooner costs no look at the clock.
				if time.Now().After(c.deadlineOf(limit)) {
					s.leave(true)
					return
				}
			}
		}
		if !s.link.Spin() {
			s.leave(false)
			return
		}
	}
}

// receive deals with one frame, all but the running of a handler, which it
// returns. It has copied what it needs of f.
func (s *session) receive(f ipc.Frame) *job {
	if s.quiet.Load() {
		s.quiet.Store(false)
	}
	switch f.Kind {
	case ipc.KindResponse, ipc.KindError:
		s.settle(f)
	case ipc.KindRequest, ipc.KindNotify:
		return s.accept(f)
	case ipc.KindCancel:
		if !s.running.cancel(f.Tx) && s.afterlife != nil {
			s.afterlife.cancel(s, f.Tx)
		}
	case ipc.KindGoodbye:
		s.goodbyeOnce.Do(func() { close(s.goodbye) })
	case ipc.KindPing:
		s.pong()
	case ipc.KindPong:
	case ipc.KindResume:
		err := fmt.Errorf("%w: this side does not resume calls", ipc.ErrProtocol)
		if s.afterlife != nil {
			err = s.afterlife.resume(s, f)
		}
		if err != nil {
			s.lost(err)
		}
	default:
		s.lost(fmt.Errorf("%w: unexpected frame of kind %v", ipc.ErrProtocol, f.Kind))
	}
	return nil
}

// settle delivers an answer to its call.
func (s *session) settle(f ipc.Frame) {
	c, parked := s.calls.take(f.Tx)
	if c == nil {
		s.late.Add(1)
		return
	}
	switch {
	case f.Kind == ipc.KindError:
		payload := f.Payload
		if !f.Owned {
			// The peer may change it meanwhile, and the decoder reads it twice.
			payload = slices.Clone(payload)
		}
		c.err = ipc.ParseError(payload)
	case f.Owned:
		c.response = f.Payload
	default:
		c.response = append(c.response, f.Payload...)
	}
	c.finish(parked)
}

// lost ends the session because its link has ended with err.
func (s *session) lost(err error) {
	if !s.ending.CompareAndSwap(false, true) {
		return
	}
	if s.afterlife == nil || !errors.Is(err, ipc.ErrDisconnected) {
		s.cancel()
	}
	s.link.Shutdown()
	go func() {
		if s.explain != nil {
			err = s.explain(s, err)
		}
		s.err = err
		s.calls.end(err)
		close(s.done)
	}()
}

// close ends the session from this side and frees the link. Handlers that do
// not heed their context are left behind, with their link shut.
func (s *session) close(grace time.Duration) {
	s.lost(ipc.ErrClosed)
	<-s.done
	idle := make(chan struct{})
	go func() {
		s.calls.drained(forever, nil) // so that no caller reads any more
		s.handling.Wait()
		s.link.Close()
		close(idle)
	}()
	if grace <= 0 {
		<-idle
		return
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	}
}

// Invoke makes one call.
func (s *session) Invoke(ctx context.Context, inv ipc.Invocation) ([]byte, error) {
	var remaining time.Duration
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if remaining = time.Until(deadline); remaining <= 0 {
			return nil, context.DeadlineExceeded // its timer has not fired yet
		}
	}
	limit := inv.Limit
	if limit == ipc.DefaultLimit {
		limit = s.limits.Call
	}
	if inv.OneWay {
		return nil, notSent(s.send(ctx, new(limited), limit, inv.Method.Name, ipc.Frame{Kind: ipc.KindNotify, Method: inv.Method.ID, Payload: inv.Request}))
	}
	c, tx, err := s.calls.add(inv.Response)
	if err != nil {
		return nil, notSent(err)
	}
	err = s.send(ctx, &c.limit, limit, inv.Method.Name, ipc.Frame{Kind: ipc.KindRequest, Tx: tx, Method: inv.Method.ID, Remaining: remaining, Payload: inv.Request})
	failed := err != nil
	if failed {
		if c.giveUp() {
			s.calls.remove(c)
			return nil, notSent(err)
		}
	} else if err := s.await(ctx, c, limit); err != nil {
		s.calls.remove(c)
		go s.sendCancel(tx)
		if errors.Is(err, errLimit) {
			return nil, overLimit(inv.Method.Name, limit)
		}
		return nil, err
	}
	if err := c.err; err != nil {
		deadline := c.deadline
		s.calls.remove(c)
		switch {
		case failed:
			err = notSent(err)
		case s.resumable(err):
			return s.resume(ctx, callKey{s.number, tx}, inv, limit, deadline)
		}
		return nil, s.nameMethod(err, inv.Method)
	}
	response := c.response
	s.calls.remove(c)
	return response, nil
}

// send sends a frame within the limits of its call, for which it uses l. If the
// link has ended it fails with the session's error.
func (s *session) send(ctx context.Context, l *limited, limit time.Duration, method string, f ipc.Frame) error {
	err := s.link.Send(l.bound(ctx, limit), f)
	ranOut := l.release()
	if err == nil {
		return nil
	}
	var tooLarge *ipc.SizeError
	switch {
	case errors.As(err, &tooLarge):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case ranOut:
		return overLimit(method, limit)
	}
	s.unsent(err)
	select {
	case <-s.done: // which says more
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func overLimit(method string, limit time.Duration) error {
	return &ipc.LimitError{What: fmt.Sprintf("call of %q", method), Limit: limit}
}

// unsent deals with a frame that could not be sent. If the peer has gone the
// reader finds that out by itself, when it has delivered what came before.
func (s *session) unsent(err error) {
	if !errors.Is(err, ipc.ErrPeerGone) && !errors.Is(err, ipc.ErrDisconnected) {
		s.lost(err)
	}
}

// forever is longer than anything takes.
const forever = 100 * 365 * 24 * time.Hour

var errLimit = errors.New("limit")

// await waits until c is settled. If it returns an error the call was given up.
func (s *session) await(ctx context.Context, c *call, limit time.Duration) error {
	for promoted := false; ; {
		if promoted || s.acquire() {
			s.lead(ctx, c, limit)
		}
		if !c.park() {
			return nil
		}
		s.followers.add(c)
		if s.role.Load()&roleState == roleLazy && s.acquire() {
			// The last reader left before it could see us, and has armed nothing.
			s.followers.remove(c)
			promoted = true
			continue
		}
		err := c.sleep(ctx, limit)
		promoted = s.followers.remove(c)
		if err == nil && c.settled() {
			if promoted {
				s.leave(true)
			}
			return nil
		}
		if err != nil {
			if promoted {
				s.leave(true)
			}
			if c.giveUp() {
				return err
			}
			return nil
		}
	}
}
