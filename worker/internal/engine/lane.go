package engine

import (
	"sync"
	"sync/atomic"
)

// lane runs the notifications of one sender to one handler that do not run in the
// background reader, one after the other. So a handler gets the notifications of one
// sender in their order, unless it is declared concurrent. A background reader runs a
// notification itself only while the lane is not busy.
type lane struct {
	busy atomic.Bool // set with the reader state held, cleared under mu

	mu    sync.Mutex
	queue []*Request
}

// laneIsBusy reports whether notifications to h wait for earlier ones. It is called
// with the reader state.
func (s *Session) laneIsBusy(h *Handler) bool {
	if len(s.reader.lanes) == 0 {
		return false
	}
	l := s.reader.lanes[h]
	return l != nil && l.busy.Load()
}

// laneOf returns the lane of h. It is called with the reader state.
func (s *Session) laneOf(h *Handler) *lane {
	l := s.reader.lanes[h]
	if l == nil {
		if s.reader.lanes == nil {
			s.reader.lanes = make(map[*Handler]*lane)
		}
		l = new(lane)
		s.reader.lanes[h] = l
	}
	return l
}

// occupyLane makes the lane of h busy, with a notification that was begun elsewhere.
// That one's end has to call proceed. It is called with the reader state.
func (s *Session) occupyLane(h *Handler) *lane {
	l := s.laneOf(h)
	l.busy.Store(true)
	return l
}

// enqueue makes r run when the earlier notifications have ended. It is called with
// the reader state.
func (l *lane) enqueue(r *Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy.Load() {
		r.copyRequest()
		l.queue = append(l.queue, r)
		return
	}
	l.busy.Store(true)
	r.hold()
	go l.run(r)
}

// next takes the next notification, and makes the lane free if there is none.
func (l *lane) next() *Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		l.queue = nil
		l.busy.Store(false)
		return nil
	}
	r := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	return r
}

// run runs r and all that follow it.
func (l *lane) run(r *Request) {
	returned := false
	defer func() {
		if !returned { // the handler has ended its goroutine
			l.proceed()
		}
	}()
	for ; r != nil; r = l.next() {
		r.serve()
	}
	returned = true
}

// proceed goes on with the next notification in a goroutine of its own.
func (l *lane) proceed() {
	if r := l.next(); r != nil {
		go l.run(r)
	}
}
