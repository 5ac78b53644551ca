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

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// session runs calls and handlers over one link, in both directions. It is the
// same for hosts and workers, and ends when its link does.
type session struct {
	link     drivers.Link
	codec    ipc.Codec
	timeouts drivers.Timeouts
	registry *registry
	log      *slog.Logger

	role      atomic.Uint64 // see role.go
	followers followers
	calls     calls
	standby   standby
	limiter   limiter
	lazy      atomic.Bool // leave the role unarmed; set by the stand-by alone

	// With the reader role: how often it was left, and when that was last
	// looked at.
	leaves      uint
	densityFrom time.Time
	contexts    []handlerContext // unused ones
	runs        uint             // of handlers by the keeper
	inline      *keeper          // the one that runs a handler, or the last
	lastID      uint64           // of lastHandler
	lastHandler *handler

	handling sync.WaitGroup  // keepers, the stand-by, and handlers in goroutines of their own
	running  running         // handlers that can be cancelled
	active   activity        // handlers in goroutines of their own that have not answered
	claimer  drivers.Claimer // the link, if it is one
	baseCtx  context.Context // of handlers
	cancel   context.CancelFunc

	// explain, if set, turns the error that ended the link into one that says
	// more, and may wait for a moment to do so.
	explain func(*session, error) error
	// latest, if set, updates the error that ended the session for later calls.
	latest func(error) error
	ending atomic.Bool
	done   chan struct{} // closed when err is set and all calls have failed
	err    error

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

// newSession makes a session, which open starts. side is 0 for the host and 1 for the worker.
func newSession(link drivers.Link, side uint64, codec ipc.Codec, limits drivers.Timeouts, reg *registry, log *slog.Logger, explain func(*session, error) error) *session {
	s := &session{
		link: link, codec: codec, timeouts: limits, registry: reg, log: log, explain: explain,
		done: make(chan struct{}), goodbye: make(chan struct{}), replaced: make(chan struct{}),
	}
	s.calls.side = side
	s.limiter.hurry = make(chan struct{}, 1)
	s.limiter.look.Store(int64(maxLook) + 1)
	s.claimer, _ = link.(drivers.Claimer)
	ctx := context.WithValue(context.Background(), sessionKey{}, s)
	s.baseCtx, s.cancel = context.WithCancel(ctx)
	return s
}

// open begins to read.
func (s *session) open() {
	s.link.Arm()
	s.startKeeper(0, false)
}

type sessionKey struct{}

// lead is a caller's reading: until its own call is settled, or nothing comes
// for a while, or its context has ended. It leaves the role.
func (s *session) lead(ctx context.Context, c *call, limit time.Duration) {
	for empty, frames, served := 1, 0, 0; ; {
		f, ok, err := s.link.Next()
		if err != nil {
			s.lost(err)
			s.leave(false)
			return
		}
		if ok {
			if (f.Kind == drivers.KindResponse || f.Kind == drivers.KindError) && c.takeOwn(f.Tx) {
				s.heard()
				s.fill(c, f)
			} else if h := s.receive(f); h != nil {
				// A caller does not run other people's handlers.
				s.dispatch(h, f)
			}
			// What has arrived with its own answer a caller still delivers: for
			// another one to take the role over takes longer.
			if c.done() {
				if served++; !f.More || served > maxServed {
					s.leave(true)
					return
				}
			}
			// A peer that goes on sending does not make our time longer.
			if frames++; frames%64 == 0 && (ctx.Err() != nil || c.over(limit)) {
				s.leave(true)
				return
			}
			continue
		}
		if served > 0 {
			s.leave(true)
			return
		}
		if empty++; empty%8 == 0 {
			if c.done() || ctx.Err() != nil || s.ending.Load() {
				s.leave(true)
				return
			}
			// An answer that comes sooner costs no look at the clock.
			if empty%256 == 0 && c.over(limit) {
				s.leave(true)
				return
			}
		}
		if !s.link.Spin() {
			s.leave(false)
			return
		}
	}
}

// maxServed is how many frames a caller delivers for others when it has its own.
const maxServed = 16

// receive deals with one frame, all but the running of a handler, which it
// returns.
func (s *session) receive(f drivers.Frame) *handler {
	s.heard()
	switch f.Kind {
	case drivers.KindResponse, drivers.KindError:
		s.settle(f)
	case drivers.KindRequest, drivers.KindNotify:
		if s.lastHandler != nil && f.Method == s.lastID { // handlers are not removed
			return s.lastHandler
		}
		if h := s.registry.find(f.Method); h != nil {
			s.lastID, s.lastHandler = f.Method, h
			return h
		}
		s.refuse(f, s.registry.unknown(f.Method))
	case drivers.KindCancel:
		if !s.running.cancel(f.Tx) && s.afterlife != nil {
			s.afterlife.cancel(s, f.Tx)
		}
	case drivers.KindGoodbye:
		s.goodbyeOnce.Do(func() { close(s.goodbye) })
	case drivers.KindPing:
		s.pong()
	case drivers.KindPong:
	case drivers.KindResume:
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

// heard notes for the heartbeat that something has come.
func (s *session) heard() {
	if s.quiet.Load() {
		s.quiet.Store(false)
	}
}

// settle delivers an answer to its call.
func (s *session) settle(f drivers.Frame) {
	c, parked := s.calls.take(f.Tx)
	if c == nil {
		s.late.Add(1)
		return
	}
	s.fill(c, f)
	c.finish(parked)
}

// fill writes an answer into its call, which the caller has taken.
func (s *session) fill(c *call, f drivers.Frame) {
	switch {
	case f.Kind == drivers.KindError:
		payload := f.Payload
		if !f.Owned {
			// The peer may change it meanwhile, and the decoder reads it twice.
			payload = slices.Clone(payload)
		}
		c.err = ipc.ParseError(payload)
	case f.Owned:
		s.link.Recycle(c.response) // in exchange
		c.response = f.Payload
	default:
		c.response = append(c.response, f.Payload...)
	}
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
	if inv.OneWay {
		return nil, s.notify(ctx, &inv)
	}
	c, limit, err := s.begin(ctx, &inv, nil)
	if err != nil {
		return nil, err
	}
	if s.resumer == nil {
		return s.finish(ctx, c, limit, inv.Method)
	}
	key := callKey{s.number, c.tx}
	var deadline time.Time
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	response, err := s.finish(ctx, c, limit, inv.Method)
	if err != nil && s.resumable(err) {
		return s.resume(ctx, key, inv, limit, deadline)
	}
	return response, err
}

// limitOf returns the limit of a call, 0 for none.
func (s *session) timeoutOf(inv *ipc.Invocation) time.Duration {
	if inv.Timeout == ipc.DefaultTimeout {
		return s.timeouts.Call
	}
	return inv.Timeout
}

// notify sends a notification.
func (s *session) notify(ctx context.Context, inv *ipc.Invocation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l := limits.Get().(*limited)
	defer limits.Put(l)
	return notSent(s.send(ctx, l, s.timeoutOf(inv), inv.Method.Name, drivers.Frame{Kind: drivers.KindNotify, Method: inv.Method.ID, Payload: inv.Request}))
}

// begin sends the request of a call, or adds it to b if there is one. The call then has
// to be finished or abandoned.
func (s *session) begin(ctx context.Context, inv *ipc.Invocation, b *batch) (c *call, limit time.Duration, err error) {
	var remaining time.Duration
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if remaining = time.Until(deadline); remaining <= 0 {
			return nil, 0, context.DeadlineExceeded // its timer has not fired yet
		}
	}
	c, tx, err := s.calls.add(inv.Response)
	if err != nil {
		return nil, 0, notSent(s.update(err))
	}
	limit = s.timeoutOf(inv)
	f := drivers.Frame{Kind: drivers.KindRequest, Tx: tx, Method: inv.Method.ID, Remaining: remaining, Payload: inv.Request}
	if b != nil {
		err = b.add(ctx, inv, f)
	} else {
		err = s.send(ctx, &c.limit, limit, inv.Method.Name, f)
	}
	if err != nil {
		if !c.giveUp() && c.err != nil {
			err = c.err
		}
		s.calls.remove(c)
		return nil, 0, notSent(err)
	}
	return c, limit, nil
}

// finish waits for the result of a call.
func (s *session) finish(ctx context.Context, c *call, limit time.Duration, m ipc.MethodInfo) ([]byte, error) {
	if err := s.await(ctx, c, limit); err != nil {
		s.drop(c)
		if errors.Is(err, errTimeout) {
			return nil, timedOut(m.Name, limit)
		}
		return nil, err
	}
	response, err := c.response, c.err
	s.calls.remove(c)
	if err != nil {
		return nil, s.nameMethod(err, m)
	}
	return response, nil
}

// drop ends a call that was given up.
func (s *session) drop(c *call) {
	tx := c.tx
	s.calls.remove(c)
	go s.sendCancel(tx)
}

// send sends a frame within the limits of its call, for which it uses l. If the
// link has ended it fails with the session's error.
func (s *session) send(ctx context.Context, l *limited, limit time.Duration, method string, f drivers.Frame) error {
	err := s.link.Send(l.bound(ctx, limit), f)
	ranOut := l.release()
	switch {
	case err == nil:
		return nil
	case ranOut && ctx.Err() == nil:
		return timedOut(method, limit)
	}
	return s.whyUnsent(ctx, err)
}

// whyUnsent turns an error of the link's Send into what a caller gets. If the link
// has ended, that is the session's error, which says more.
func (s *session) whyUnsent(ctx context.Context, err error) error {
	var tooLarge *ipc.SizeError
	switch {
	case errors.As(err, &tooLarge):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	s.unsent(err)
	select {
	case <-s.done:
		return s.update(s.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// update brings the error of a session that has ended up to date.
func (s *session) update(err error) error {
	if s.latest == nil {
		return err
	}
	return s.latest(err)
}

func timedOut(method string, limit time.Duration) error {
	return &ipc.TimeoutError{What: fmt.Sprintf("call of %q", method), After: limit}
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

var errTimeout = errors.New("limit")

// await waits until c is settled. If it returns an error the call was given up.
func (s *session) await(ctx context.Context, c *call, limit time.Duration) error {
	if c.done() {
		return nil
	}
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
		err := s.sleep(ctx, c, limit)
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
