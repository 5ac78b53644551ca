package worker

import (
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

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

// activity counts the handlers in goroutines of their own that have not answered,
// and the bytes of their requests. The one that the reader runs is seen by the
// role, which costs nothing.
type activity struct {
	n        atomic.Int64
	bytes    atomic.Int64
	draining atomic.Bool
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
	a.n.Add(-1)
}

// drain lets no more handlers begin, and returns a channel that is closed when
// the last one has answered, or the session has ended.
func (s *session) drain() <-chan struct{} {
	// SYNC: pairs with session.runInline, which changes the role and then loads
	// draining.
	s.active.draining.Store(true)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for pause := 50 * time.Microsecond; s.handles() && !within(s.done, pause, nil); pause = min(2*pause, 2*time.Millisecond) {
		}
	}()
	return drained
}

// handles reports whether a handler is at work. The role comes first: a handler
// whose keeper was robbed is counted before the role stops showing it.
func (s *session) handles() bool {
	role := s.role.Load()
	return role&roleState == roleInline || role&roleAway != 0 || s.active.n.Load() > 0
}
