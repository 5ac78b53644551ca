package worker

import (
	"fmt"
	"sync"
	"time"
)

// EventKind says what has happened to a worker.
type EventKind uint8

// The kinds of events.
//
//	Started -> Ready -> (Disconnected -> Reconnected)* -> Exited -> Restarting -> Started ...
//	Started -> Exited                                            -> GaveUp
const (
	// EventStarted: a process runs, and has not said hello yet.
	EventStarted EventKind = iota + 1
	// EventReady: the process takes calls. If Attempt is more than 1 the worker
	// was restarted.
	EventReady
	// EventDisconnected: the link has ended, for the reason in Err, and the
	// process lives.
	EventDisconnected
	// EventReconnected: there is a new link to the same process.
	EventReconnected
	// EventExited: the process has ended and was reaped. Err is an [*ExitError],
	// or if the process was never ready the error of the start; then PID is 0 if
	// there was no process at all.
	EventExited
	// EventRestarting: the worker will be started again after Delay. Err is why
	// it has to be.
	EventRestarting
	// EventGaveUp: the worker has ended too often, and is not started any more.
	// Err is how it ended last.
	EventGaveUp
)

// String returns the name of the kind.
func (k EventKind) String() string {
	switch k {
	case EventStarted:
		return "started"
	case EventReady:
		return "ready"
	case EventDisconnected:
		return "disconnected"
	case EventReconnected:
		return "reconnected"
	case EventExited:
		return "exited"
	case EventRestarting:
		return "restarting"
	case EventGaveUp:
		return "gave up"
	}
	return fmt.Sprintf("event(%d)", uint8(k))
}

// Event is something that has happened to a worker.
type Event struct {
	Kind EventKind
	Time time.Time
	// PID is the process that it happened to. For EventRestarting and EventGaveUp
	// it is the last one that was ready.
	PID int
	// Attempt counts the starts of the worker: 1 is the one by [Spawn].
	Attempt int
	// Err is why it happened, if there is a reason.
	Err error
	// Delay is the pause before a restart.
	Delay time.Duration
	// Missed is how many events before this one were dropped, since their
	// receiver was too slow.
	Missed int
}

// WithEvents calls f with what happens to the worker, in order, one at a time,
// from a goroutine of its own. The client does not wait for f. While f is busy 256
// events are kept; of more the oldest are dropped, and counted in the next one.
//
// All events have been delivered when [Client.Close] returns, unless f takes
// longer than the grace ([WithGrace]) for those that are left. So f should not
// call Close itself, but in a goroutine.
func WithEvents(f func(Event)) Option { return func(o *options) { o.events = f } }

// maxEvents bounds the events that wait for their receiver.
const maxEvents = 256

// events delivers events in order. A nil one drops them.
type events struct {
	deliver func(Event)
	wake    chan struct{} // has a token if there may be something to do
	done    chan struct{} // closed when all is delivered after close

	mu     sync.Mutex // guards the following
	queue  []Event
	missed int
	closed bool
}

func newEvents(deliver func(Event)) *events {
	e := &events{deliver: deliver, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go e.run()
	return e
}

// add puts an event into the queue. It never blocks.
func (e *events) add(event Event) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	event.Time = time.Now()
	if len(e.queue) == maxEvents {
		e.queue = e.queue[1:]
		e.missed++
	}
	e.queue = append(e.queue, event)
	e.notify()
}

func (e *events) notify() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// take removes the first event. more is false when there will be none.
func (e *events) take() (event Event, ok, more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 {
		return event, false, !e.closed
	}
	event, e.queue = e.queue[0], e.queue[1:]
	event.Missed, e.missed = e.missed, 0
	return event, true, true
}

func (e *events) run() {
	defer close(e.done)
	for {
		event, ok, more := e.take()
		switch {
		case ok:
			e.deliver(event)
		case !more:
			return
		default:
			<-e.wake
		}
	}
}

// close takes no more events, and waits until those that there are have been
// delivered, for at most d.
func (e *events) close(d time.Duration) {
	if e == nil {
		return
	}
	e.mu.Lock()
	e.closed = true
	e.notify()
	e.mu.Unlock()
	within(e.done, d, nil)
}
