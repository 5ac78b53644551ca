package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// Handler is a registered handler. Its fields are set before it is registered.
type Handler struct {
	Info ipc.MethodInfo
	// InPlace says that the handler keeps nothing that it is given, its context
	// included.
	InPlace bool
	// Invoke runs the handler, and returns the encoded response.
	Invoke func(*Request) (response []byte, err error)
	// Stream runs the handler of a stream, in the place of Invoke. own is the stream, and st
	// what interceptors have made of it.
	Stream func(ctx context.Context, own *Stream, st ipc.Stream) error

	fixed     bool          // an option has set the score for good
	semaphore *semaphore    // of a concurrent handler
	places    chan struct{} // the same for streams
	score     atomic.Int32
}

// Inline makes the background reader run the handler itself, always.
func (h *Handler) Inline() {
	h.fixed = true
	h.score.Store(scoreMax)
}

// Lasting makes each run of the handler use a goroutine of its own, since it may last.
func (h *Handler) Lasting() {
	h.fixed = true
	h.score.Store(scoreStuck)
}

// Concurrent makes each run of the handler use a goroutine of its own, of which n run
// at once.
func (h *Handler) Concurrent(n int) {
	h.Lasting()
	h.semaphore = &semaphore{limit: n}
	h.places = make(chan struct{}, n)
}

// How a handler's score moves. Below scoreInline it gets a goroutine.
const (
	quickTime   = 10 * time.Microsecond
	scoreInline = 4
	scoreMax    = 16
	scoreSlow   = -12 // one slow run from the maximum may be the machine's doing
	scoreStuck  = -64
	sampleEvery = 31 // runs in the background, since reading the clock costs as much as a small handler; prime, so that no pattern hides one
)

// quick reports whether the background reader may run the handler itself.
func (h *Handler) quick() bool { return h.score.Load() >= scoreInline }

// wasTakenOver notes that a run in the background reader outlasted a tick, or waited
// for a call of its own.
func (h *Handler) wasTakenOver() {
	if !h.fixed {
		h.score.Store(scoreStuck)
	}
}

// took notes how long a run took.
func (h *Handler) took(d time.Duration) {
	if h.fixed {
		return
	}
	score := h.score.Load()
	if d <= quickTime {
		score = min(score+1, scoreMax)
	} else {
		score = max(score+scoreSlow, scoreStuck)
	}
	h.score.Store(score) // a lost update is harmless
}

// Registry holds the handlers of a server or client. Its zero value is empty. It is
// safe for concurrent use.
type Registry struct {
	mu   sync.Mutex
	byID atomic.Pointer[map[uint64]*Handler] // replaced when one is registered
}

// Register makes h the handler of its method. It panics if there is one already.
func (r *Registry) Register(h *Handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[uint64]*Handler{h.Info.ID: h}
	if old := r.byID.Load(); old != nil {
		for id, other := range *old {
			if id == h.Info.ID {
				panic(fmt.Sprintf("tandem: methods %q and %q have the same id %#x: each takes one handler", other.Info.Name, h.Info.Name, id))
			}
			next[id] = other
		}
	}
	r.byID.Store(&next)
}

// Remove takes the handler of a method out. Runs of it go on.
func (r *Registry) Remove(h *Handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(*r.byID.Load())
	delete(next, h.Info.ID)
	r.byID.Store(&next)
}

// serves reports whether there is any handler.
func (r *Registry) serves() bool { return r.byID.Load() != nil }

func (r *Registry) find(id uint64) *Handler {
	if m := r.byID.Load(); m != nil {
		return (*m)[id]
	}
	return nil
}

// names lists the methods that have handlers, for error messages.
func (r *Registry) names() string {
	var names []string
	if m := r.byID.Load(); m != nil {
		for _, h := range *m {
			names = append(names, fmt.Sprintf("%q", h.Info.Name))
		}
	}
	if names == nil {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// Handlers returns the handlers, in no order.
func (r *Registry) Handlers() []*Handler {
	if m := r.byID.Load(); m != nil {
		return slices.Collect(maps.Values(*m))
	}
	return nil
}
