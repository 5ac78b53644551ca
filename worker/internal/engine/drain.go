package engine

import (
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/worker/internal/wait"
)

// inFlight counts the requests that do not run in the background reader and have not
// been answered. The one that runs there is seen by the reader state, which costs
// nothing.
type inFlight struct {
	n        atomic.Int64
	draining atomic.Bool
}

// enter counts a request. It returns false if the session takes no more.
func (a *inFlight) enter() bool {
	a.n.Add(1)
	if a.draining.Load() {
		a.n.Add(-1)
		return false
	}
	return true
}

func (a *inFlight) exit() { a.n.Add(-1) }

// Drain makes the session refuse further requests, and returns a channel that is
// closed when the last one has been answered, or the session has ended.
func (s *Session) Drain() <-chan struct{} {
	// SYNC: pairs with Session.runInBackground, which changes the reader state and then
	// loads draining.
	if !s.inFlight.draining.Swap(true) {
		close(s.lifetime.draining)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for pause := minPoll; s.handles() && !wait.Within(s.lifetime.done, pause, nil); pause = min(2*pause, maxPoll) {
		}
	}()
	return drained
}

// How often a goroutine looks for what is not worth a notification.
const (
	minPoll = 50 * time.Microsecond
	maxPoll = 2 * time.Millisecond
)

// handles reports whether a handler is at work. The reader state comes first: a run
// that was taken over is counted before the state stops showing it.
func (s *Session) handles() bool {
	word := s.reader.state.Load()
	return word&readerState == readerHandling || word&readerAway != 0 || s.inFlight.n.Load() > 0
}
