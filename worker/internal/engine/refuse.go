package engine

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/retry"
)

var errDraining = &ipc.Error{Code: ipc.CodeUnavailable, Message: "the worker is shutting down", Details: map[string]string{retry.DetailDraining: "1"}}

// refusals are answers to requests that are not handled. One goroutine sends them,
// since the reader must not block. What the peer may have sent bounds their number.
type refusals struct {
	mu      sync.Mutex
	queue   []refusal
	sending bool
}

type refusal struct {
	tx   uint64
	cost int64
	kind drivers.Kind // of what is refused
	why  error
}

// maxRefusals bounds the refusals that wait: no peer has as many calls.
const maxRefusals = maxCalls

// refuse answers a request that is not handled, and which takes cost of the window, or
// notes that notifications were dropped. It does not block.
func (s *Session) refuse(kind drivers.Kind, tx uint64, cost int64, why error) {
	if kind == drivers.KindNotify {
		s.dropped.note(s, why, max(1, tx)) // see drivers.Frame.Tx
		s.finish(true, cost)
		return
	}
	q := &s.refusals
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) >= maxRefusals {
		s.Fail(fmt.Errorf("%w: the peer does not read the answers to %d requests that were refused: %w", ipc.ErrProtocol, len(q.queue), why))
		return
	}
	q.queue = append(q.queue, refusal{tx, cost, kind, why})
	if !q.sending {
		q.sending = true
		s.handling.Go(s.sendRefusals)
	}
}

func (s *Session) sendRefusals() {
	q := &s.refusals
	for {
		q.mu.Lock()
		queue := q.queue
		q.queue = nil
		if len(queue) == 0 {
			q.sending = false
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		for _, r := range queue {
			if s.baseCtx.Err() != nil {
				continue // the link has ended, and nobody will ask again
			}
			f := drivers.Frame{Kind: drivers.KindError, Tx: r.tx, Payload: ipc.AppendError(nil, r.why)}
			if r.kind == drivers.KindResume {
				_ = s.transmit(&f) // the host asks again
				continue
			}
			s.answer(&f)
			s.finish(false, r.cost)
		}
	}
}

// droppedNotifications counts the notifications that no handler got, and reports them
// to the logger: how many, at most once in a second.
type droppedNotifications struct {
	mu    sync.Mutex
	n     uint64
	why   error
	timer *time.Timer
}

const reportInterval = time.Second

func (d *droppedNotifications) note(s *Session, why error, n uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n += n
	d.why = why
	if d.timer == nil {
		d.timer = time.AfterFunc(reportInterval, func() { d.report(s) })
	}
}

// report reports what was not reported yet.
func (d *droppedNotifications) report(s *Session) {
	d.mu.Lock()
	n, why := d.n, d.why
	d.n = 0
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.mu.Unlock()
	if n > 0 {
		s.config.Log.Warn("tandem: notifications were dropped", "count", n, "error", why)
	}
}

// The details of the error for an unknown method.
const (
	detailUnknownMethod = "tandem.unknown_method"
	detailHandlers      = "tandem.handlers"
)

// unknown is the error for a method that has no handler.
func (r *Registry) unknown(id uint64) error {
	method, names := fmt.Sprintf("%#x", id), r.names()
	return &ipc.Error{
		Code:    ipc.CodeUnimplemented,
		Message: fmt.Sprintf("no handler for method %s; there are handlers for: %s", method, names),
		Details: map[string]string{detailUnknownMethod: method, detailHandlers: names},
	}
}

// nameMethod puts the method's name, which the other side cannot know, into its error
// for an unknown method.
func nameMethod(err error, m *ipc.MethodInfo) error {
	var e *ipc.Error
	if errors.As(err, &e) && e.Details[detailUnknownMethod] != "" {
		e.Message = fmt.Sprintf("no handler for method %q; there are handlers for: %s", m.Name, e.Details[detailHandlers])
	}
	return err
}
