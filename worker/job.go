package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// job is one request on its way through a handler.
type job struct {
	handler *handler
	tx      uint64 // of the request, meaningless for a notification
	oneWay  bool
	ctx     *handlerContext
	request []byte
	owned   bool // request is nobody else's
	// memory that request and response are put into
	in, out []byte
}

var jobs = sync.Pool{New: func() any { return new(job) }}

// maxKept bounds the buffers that wait for the next job.
const maxKept = 64 << 10

func (j *job) free() {
	in, out := j.in[:0], j.out[:0]
	if cap(in) > maxKept {
		in = nil
	}
	if cap(out) > maxKept {
		out = nil
	}
	*j = job{in: in, out: out}
	jobs.Put(j)
}

// accept makes a job of a request, or answers it at once if there is no
// handler or the session is draining.
func (s *session) accept(f ipc.Frame) *job {
	h := s.registry.find(f.Method)
	if h == nil {
		s.refuse(f, s.registry.unknown(f.Method))
		return nil
	}
	if err := s.active.begin(len(f.Payload)); err != nil {
		s.refuse(f, err)
		return nil
	}
	j := jobs.Get().(*job)
	j.handler, j.tx, j.oneWay = h, f.Tx, f.Kind == ipc.KindNotify
	j.ctx = newHandlerContext(s.baseCtx, h, f.Tx, f.Remaining)
	if f.Owned {
		j.request, j.owned = f.Payload, true
	} else {
		j.in = append(j.in, f.Payload...)
		j.request = j.in
	}
	return j
}

// maxRefusing bounds the refusals that wait to be sent. A peer that reads its
// answers has room for far more of them.
const maxRefusing = 1024

// refuse answers a request that is not handled.
func (s *session) refuse(f ipc.Frame, why error) {
	if f.Kind == ipc.KindNotify {
		s.log.Warn("tandem: notification dropped", "error", why)
		return
	}
	if s.refusing.Add(1) > maxRefusing {
		s.lost(fmt.Errorf("%w: the peer does not read the answers to %d requests that were refused: %w", ipc.ErrProtocol, maxRefusing, why))
		return
	}
	// Not here: the reader must not block.
	s.handling.Go(func() {
		defer s.refusing.Add(-1)
		refusal := ipc.Frame{Kind: ipc.KindError, Tx: f.Tx, Payload: ipc.AppendError(nil, why)}
		if f.Kind == ipc.KindResume {
			_ = s.transmit(refusal) // the host asks again
			return
		}
		s.answer(refusal)
	})
}

// detailDraining is in the error for a request that came too late to be run.
const detailDraining = "tandem.draining"

// The details of the error for an unknown method.
const (
	detailUnknownMethod = "tandem.unknown_method"
	detailHandlers      = "tandem.handlers"
)

// unknown is the error for a method that has no handler.
func (r *registry) unknown(id uint64) error {
	method, names := fmt.Sprintf("%#x", id), r.names()
	return &ipc.Error{
		Code:    ipc.CodeUnimplemented,
		Message: fmt.Sprintf("no handler for method %s; there are handlers for: %s", method, names),
		Details: map[string]string{detailUnknownMethod: method, detailHandlers: names},
	}
}

// nameMethod puts the method's name, which the other side cannot know, into
// its error for an unknown method.
func (s *session) nameMethod(err error, m ipc.MethodInfo) error {
	var e *ipc.Error
	if errors.As(err, &e) && e.Details[detailUnknownMethod] != "" {
		e.Message = fmt.Sprintf("no handler for method %q; there are handlers for: %s", m.Name, e.Details[detailHandlers])
	}
	return err
}

// runConcurrently runs a job in a goroutine of its own.
func (s *session) runConcurrently(j *job) {
	s.running.add(j.ctx)
	s.handling.Go(func() {
		defer s.running.remove(j.ctx)
		s.run(j, true)
	})
}

// run runs the handler, sends the answer and frees the job.
func (s *session) run(j *job, timed bool) {
	h := j.handler
	if !timed && h.runs.Add(1)%sampleEvery == 0 {
		timed = true
	}
	var start time.Time
	if timed {
		start = time.Now()
	}
	defer s.active.end(len(j.request))
	defer j.ctx.finish()
	response, failure := s.call(j)
	if timed {
		h.took(time.Since(start))
	}
	switch {
	case j.oneWay:
		if failure != nil {
			s.log.Warn("tandem: handler of a notification failed", "method", h.info.Name, "error", ipc.ParseError(failure))
		}
	case failure != nil:
		s.answer(ipc.Frame{Kind: ipc.KindError, Tx: j.tx, Payload: failure})
	default:
		s.answer(ipc.Frame{Kind: ipc.KindResponse, Tx: j.tx, Payload: response})
	}
	if failure == nil && h.codec(s.codec) != ipc.Raw {
		j.out = response // which may have grown
	}
	j.free()
}

// call calls the handler. If that fails, or panics, or its error does, it returns
// the encoded error. If the handler ends its goroutine the caller gets an error, too.
func (s *session) call(j *job) (response, failure []byte) {
	returned := false
	defer func() {
		if returned {
			return
		}
		message := "called runtime.Goexit"
		p := recover()
		if p != nil {
			message = fmt.Sprintf("panicked: %v", p)
		}
		failure = ipc.AppendError(nil, &ipc.Error{
			Code:    ipc.CodeInternal,
			Message: fmt.Sprintf("the handler of %q %s", j.handler.info.Name, message),
			Stack:   string(debug.Stack()),
		})
		if p == nil && !j.oneWay {
			s.answer(ipc.Frame{Kind: ipc.KindError, Tx: j.tx, Payload: failure})
		}
	}()
	response, err := j.handler.invoke(j.ctx, j.handler.codec(s.codec), j.request, j.owned, j.out)
	if err != nil {
		failure = ipc.AppendError(nil, err)
	}
	returned = true
	return response, failure
}

// answer sends a response or an error. The link's end is the only thing that
// can keep it from arriving.
func (s *session) answer(f ipc.Frame) {
	err := s.transmit(f)
	switch {
	case err == nil:
	case s.afterlife != nil && errors.Is(err, ipc.ErrDisconnected):
		s.afterlife.answer(callID{s.linkID(), f.Tx}, f)
	case s.baseCtx.Err() == nil:
		s.unsent(err)
	}
}

// transmit sends an answer, or, if that is too large for the link, says so.
func (s *session) transmit(f ipc.Frame) error {
	err := s.link.Send(s.baseCtx, f)
	var tooLarge *ipc.SizeError
	if errors.As(err, &tooLarge) {
		// Too large for the link, which the caller must learn.
		e := ipc.Errorf(ipc.CodeResourceExhausted, "the response cannot be sent: %w", err)
		err = s.link.Send(s.baseCtx, ipc.Frame{Kind: ipc.KindError, Tx: f.Tx, Payload: ipc.AppendError(nil, e)})
	}
	return err
}

// sendCancel tells the peer that nobody waits for the answer any more.
func (s *session) sendCancel(tx uint64) {
	ctx, cancel := context.WithTimeout(s.baseCtx, time.Second)
	defer cancel()
	// If it cannot be sent, the answer will come late and be dropped.
	_ = s.link.Send(ctx, ipc.Frame{Kind: ipc.KindCancel, Tx: tx})
}

// running knows the handlers that a cancel frame or the end of the session can
// reach: those in goroutines of their own, and the one that the keeper runs.
type running struct {
	inline atomic.Pointer[handlerContext]

	mu   sync.Mutex
	byTx map[uint64]*handlerContext
}

func (r *running) add(c *handlerContext) {
	r.mu.Lock()
	if r.byTx == nil {
		r.byTx = make(map[uint64]*handlerContext)
	}
	r.byTx[c.tx] = c
	r.mu.Unlock()
}

// adopt lists the handler from whose keeper the role was stolen, for the next
// keeper may run another one before it ends, though not of this method.
func (r *running) adopt() {
	if c := r.inline.Load(); c != nil {
		r.add(c)
		// If the handler has returned meanwhile, the keeper that ran it may
		// have looked for it in vain.
		if c.hasEnded() {
			r.remove(c)
			return
		}
		c.handler.wasStolen()
	}
}

func (r *running) remove(c *handlerContext) {
	r.mu.Lock()
	if r.byTx[c.tx] == c {
		delete(r.byTx, c.tx)
	}
	r.mu.Unlock()
}

// cancel ends the context of a handler, and returns false if it does not run.
func (r *running) cancel(tx uint64) bool {
	r.mu.Lock()
	c := r.byTx[tx]
	r.mu.Unlock()
	if c == nil {
		if c = r.inline.Load(); c == nil || c.tx != tx {
			return false
		}
	}
	c.cancel()
	return true
}

// has reports whether a handler runs that is not the keeper's.
func (r *running) has(tx uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byTx[tx] != nil
}

// handlerContext is the context of one handler. It makes a real one only when
// somebody waits for it, since most handlers are done before.
type handlerContext struct {
	base      context.Context
	handler   *handler
	tx        uint64
	remaining time.Duration
	received  time.Time // only if remaining is set

	mu    sync.Mutex
	ended bool
	real  context.Context
	stop  context.CancelFunc
}

func newHandlerContext(base context.Context, h *handler, tx uint64, remaining time.Duration) *handlerContext {
	c := &handlerContext{base: base, handler: h, tx: tx, remaining: remaining}
	if remaining > 0 {
		c.received = time.Now()
	}
	return c
}

func (c *handlerContext) Deadline() (time.Time, bool) {
	if c.remaining == 0 {
		return time.Time{}, false
	}
	return c.received.Add(c.remaining), true
}

func (c *handlerContext) inner() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		if deadline, ok := c.Deadline(); ok {
			c.real, c.stop = context.WithDeadline(c.base, deadline)
		} else {
			c.real, c.stop = context.WithCancel(c.base)
		}
		if c.ended {
			c.stop()
		}
	}
	return c.real
}

func (c *handlerContext) Done() <-chan struct{} { return c.inner().Done() }
func (c *handlerContext) Err() error            { return c.inner().Err() }

func (c *handlerContext) Value(key any) any {
	if key == (sessionKey{}) {
		return c.base.Value(key)
	}
	return c.inner().Value(key)
}

// cancel ends the context because the caller gave up.
func (c *handlerContext) cancel() {
	c.mu.Lock()
	c.ended = true
	if c.stop != nil {
		c.stop()
	}
	c.mu.Unlock()
}

func (c *handlerContext) hasEnded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// finish ends the context because the handler has returned.
func (c *handlerContext) finish() { c.cancel() }

// What a peer can make a session hold at once. No correct one comes near, and
// beyond it requests are refused, and notifications dropped.
const (
	maxHandlers = 1 << 16 // that have not answered
	maxRequests = 1 << 30 // bytes of their requests
)

var (
	errDraining = &ipc.Error{Code: ipc.CodeUnavailable, Message: "the worker is shutting down", Details: map[string]string{detailDraining: "1"}}
	errTooBusy  = ipc.Errorf(ipc.CodeResourceExhausted, "%d handlers, or %d bytes of requests, are at work on this link", maxHandlers, maxRequests)
)

// activity counts the handlers that have not answered, and the bytes of their
// requests.
type activity struct {
	n        atomic.Int64
	bytes    atomic.Int64
	draining atomic.Bool
	once     sync.Once
	drained  chan struct{}
}

// begin counts a handler. It returns an error if there cannot be one more.
func (a *activity) begin(size int) error {
	n, bytes := a.n.Add(1), a.bytes.Add(int64(size))
	switch {
	case a.draining.Load():
		a.end(size)
		return errDraining
	case n > maxHandlers || bytes > maxRequests && n > 1:
		a.end(size)
		return errTooBusy
	}
	return nil
}

func (a *activity) end(size int) {
	a.bytes.Add(-int64(size))
	if a.n.Add(-1) == 0 && a.draining.Load() {
		a.once.Do(func() { close(a.drained) })
	}
}

// drain lets no more handlers begin, and returns a channel that is closed when
// the last one has answered. It is called once.
func (a *activity) drain() <-chan struct{} {
	a.drained = make(chan struct{})
	a.draining.Store(true)
	if a.n.Load() == 0 {
		a.once.Do(func() { close(a.drained) })
	}
	return a.drained
}

// Host returns a [ipc.Caller] for the process whose call ctx, the context of a
// handler, belongs to: with it a handler calls back. It returns nil for any
// other context.
func Host(ctx context.Context) ipc.Caller {
	if s, ok := ctx.Value(sessionKey{}).(*session); ok {
		return s
	}
	return nil
}

// Codec returns the codec of the link. It makes a session an [ipc.Caller].
func (s *session) Codec() ipc.Codec { return s.codec }
