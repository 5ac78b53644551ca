package netconn

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// deadline is when the calls of one direction of a connection end. Its zero value is not ready:
// see init.
type deadline struct {
	present atomic.Pointer[moment] // the context of the calls that begin now

	mu     sync.Mutex
	at     time.Time   // zero if there is none
	timer  *time.Timer // nil until there was a deadline
	closed error       // why all calls end for good, or nil
}

// moment is the context of calls until they have to end. It ends once.
type moment struct {
	done chan struct{}
	why  error // readable when done is closed
}

var _ context.Context = (*moment)(nil)

func newMoment() *moment { return &moment{done: make(chan struct{})} }

// Done implements context.Context.
func (m *moment) Done() <-chan struct{} { return m.done }

// Err implements context.Context.
func (m *moment) Err() error {
	select {
	case <-m.done:
		if m.why == os.ErrDeadlineExceeded {
			return context.DeadlineExceeded
		}
		return context.Canceled
	default:
		return nil
	}
}

// Deadline implements context.Context. The deadline of a connection moves, so there is none to tell.
func (m *moment) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value implements context.Context.
func (m *moment) Value(any) any { return nil }

// past is a context that has ended: what is called with it does not wait.
var past = func() *moment {
	m := newMoment()
	m.end(os.ErrDeadlineExceeded)
	return m
}()

func (m *moment) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// end ends the moment, if it has not ended. It is called by one goroutine at a time.
func (m *moment) end(why error) {
	if !m.ended() {
		m.why = why
		close(m.done)
	}
}

func (d *deadline) init() { d.present.Store(newMoment()) }

// set moves the deadline. Calls that wait end with the new one.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed != nil {
		return
	}
	d.at = t
	left := time.Until(t)
	switch {
	case t.IsZero():
		if d.timer != nil {
			d.timer.Stop()
		}
	case left <= 0:
		d.present.Load().end(os.ErrDeadlineExceeded)
		return
	case d.timer == nil:
		d.timer = time.AfterFunc(left, d.passed)
	default:
		d.timer.Reset(left)
	}
	if d.present.Load().ended() {
		d.present.Store(newMoment())
	}
}

// passed is called by the timer, perhaps for a deadline that was moved since.
func (d *deadline) passed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at.IsZero() || d.closed != nil {
		return
	}
	if left := time.Until(d.at); left > 0 {
		d.timer.Reset(left)
		return
	}
	d.present.Load().end(os.ErrDeadlineExceeded)
}

// close ends all calls for good, because of err. Of several errors the last counts for what
// begins later.
func (d *deadline) close(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.present.Load().end(err)
	if d.present.Load().why != err {
		m := newMoment()
		m.end(err)
		d.present.Store(m)
	}
	d.closed = err
}
