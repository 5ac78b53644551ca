package worker

import (
	"fmt"
	"time"

	"github.com/tandemipc/tandem/worker/internal/queue"
)

// EventKind says what has happened to a worker.
type EventKind uint8

// The kinds of events.
//
//	Started -> Ready -> (Disconnected -> Reconnected)* -> Exited -> Restarting -> Started ...
//	Started -> Exited                                            -> GaveUp
//
// The client of a service ([Dial]) has these:
//
//	Ready -> Disconnected -> (Reconnecting) -> Reconnected -> Disconnected ... -> GaveUp
const (
	// EventStarted: a process was started, and is not ready yet.
	EventStarted EventKind = iota + 1
	// EventReady: the process takes calls. If Attempt is more than 1 the worker
	// was restarted.
	EventReady
	// EventDisconnected: the link has ended, for the reason in Err, and the
	// process lives.
	EventDisconnected
	// EventReconnected: there is a new link to the same process.
	EventReconnected
	// EventExited: the process has ended and was reaped, and Err is an [*ExitError].
	// If it was never ready, Err is the error of the start, and PID is 0 if there was
	// no process at all.
	EventExited
	// EventRestarting: the worker will be started again after Delay. Err is why
	// it has to be.
	EventRestarting
	// EventGaveUp: the worker has ended too often, and is not started any more.
	// Err is how it ended last.
	EventGaveUp
	// EventReconnecting: the client of a service will try to connect again after Delay. Err is
	// why it has to.
	EventReconnecting
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
	case EventReconnecting:
		return "reconnecting"
	}
	return fmt.Sprintf("event(%d)", uint8(k))
}

// Event is something that has happened to a worker.
type Event struct {
	Kind EventKind
	Time time.Time
	// PID is the id of the process. For EventRestarting and EventGaveUp it is that of
	// the last process that was ready.
	PID int
	// Attempt counts the starts of the worker: 1 is the one by [Spawn].
	Attempt int
	// Err is why it happened, or nil.
	Err error
	// Delay is the pause before a restart.
	Delay time.Duration
	// Missed is how many events before this one were dropped, because the function
	// of WithEvents was too slow.
	Missed int
}

// WithEvents calls f with each event in the life of the worker, in order, one at a time,
// from a goroutine of its own. The client does not wait for f: while f is busy, up to
// [MaxEvents] events wait. If there are more the client drops the oldest, and the next
// event says how many.
//
// When [Client.Close] returns, f has had all events, unless it takes longer for them than
// the grace ([WithGrace]). So f should call Close only in a goroutine. WithEvents panics
// if f is nil.
func WithEvents(f func(Event)) Option {
	mustBeSet("WithEvents", f == nil)
	return func(s *Settings) { s.Events = f }
}

// MaxEvents is how many events wait for a function of [WithEvents] that is busy.
const MaxEvents = 256

func newEvents(deliver func(Event)) *queue.Queue[Event] {
	return queue.New(MaxEvents, func(e Event, missed int) {
		e.Missed = missed
		deliver(e)
	})
}
