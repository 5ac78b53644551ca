package worker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// Registrar takes handlers: a [Server], or a [Client] whose worker calls back.
type Registrar interface{ handlers() *registry }

// Handle makes f answer calls of m. It may be called while links are up. f is
// called concurrently, with a context that ends when the caller gives up, its
// deadline passes, the handler has returned, or the link ends. What f gets is its
// own to keep.
//
// An error that f returns reaches the caller as an [*ipc.Error]: with its code
// if it is one, otherwise with the code that [ipc.CodeOf] finds. A panic becomes
// CodeInternal with the stack, and the worker lives on.
//
// A handler that has been quick lately is run by the goroutine that reads the
// link, and any other in a goroutine of its own; one that turns slow or blocks
// holds up the link for about a millisecond, and then has to be quick many times
// before the reader runs it again. [Inline] and [Concurrent] decide otherwise.
//
// Handle panics if m has a handler already.
func Handle[Req, Res any](r Registrar, m *ipc.Method[Req, Res], f func(ctx context.Context, req Req) (Res, error), opts ...HandlerOption) {
	h := &handler{info: m.Info()}
	h.invoke = func(j *job) ([]byte, error) {
		codec := m.Codec(j.session.codec)
		req, err := decodeRequest[Req](codec, j)
		if err != nil {
			return nil, ipc.Errorf(ipc.CodeInvalidArgument, "decode the request of %q: %w", m.Info().Name, err)
		}
		j.read()
		res, err := f(j.ctx, req)
		if err != nil {
			return nil, err
		}
		if codec == ipc.Raw {
			if raw, ok := any(res).([]byte); ok {
				return raw, nil
			}
		}
		if j.out, err = ipc.Marshal(codec, j.out, res); err != nil {
			return nil, ipc.Errorf(ipc.CodeInternal, "encode the response of %q: %w", m.Info().Name, err)
		}
		return j.out, nil
	}
	r.handlers().add(h, opts)
}

// decodeRequest decodes the request of j. The codecs that read it once may do so
// where it lies.
func decodeRequest[Req any](codec ipc.Codec, j *job) (Req, error) {
	switch codec {
	case ipc.Raw:
		if raw, ok := any(j.request).(Req); ok && j.owned {
			j.owned = false // it is the handler's now
			return raw, nil
		}
		return ipc.Unmarshal[Req](codec, j.request)
	case ipc.Fixed:
		return ipc.Unmarshal[Req](codec, j.request)
	}
	return ipc.Unmarshal[Req](codec, j.private())
}

// HandlerOption is an option of [Handle] and [HandleInPlace].
type HandlerOption func(*handler)

// Inline makes the goroutine that reads the link run the handler, always. That
// saves a start of a goroutine where the handler is known to be quick, though it was
// slow now and then. A run that takes long all the same holds the link up for a
// millisecond at most, for another reader takes over.
func Inline() HandlerOption { return func(h *handler) { h.fixed = true; h.score.Store(scoreMax) } }

// Concurrent makes each run of the handler use a goroutine of its own, of which n
// run at once, on all links together; more requests wait for their turn, in order.
// It panics if n is not positive.
func Concurrent(n int) HandlerOption {
	if n <= 0 {
		panic(fmt.Sprintf("tandem: %d concurrent handlers", n))
	}
	return func(h *handler) {
		h.fixed = true
		h.score.Store(scoreStuck)
		h.gate = &gate{limit: n}
	}
}

// gate lets a number of jobs run, and keeps the others. A nil gate lets all run.
type gate struct {
	limit int

	mu      sync.Mutex
	running int
	waiting []*job
}

// enter reports whether j may run now; otherwise a leave will return it. What waits
// holds no memory of a link.
func (g *gate) enter(j *job) bool {
	if g == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running < g.limit {
		g.running++
		return true
	}
	j.private()
	g.waiting = append(g.waiting, j)
	return false
}

// leave is called when a job has run, and returns the one that runs next, if any.
func (g *gate) leave() *job {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.running--
		return nil
	}
	next := g.waiting[0]
	g.waiting[0] = nil
	g.waiting = g.waiting[1:]
	return next
}

// handler is a registered handler.
type handler struct {
	info    ipc.MethodInfo
	inPlace bool
	fixed   bool // an option has set the score for good
	gate    *gate
	invoke  func(*job) (response []byte, err error)

	// score says how quick it has been; see quick.
	score atomic.Int32
}

// How a handler's score moves. Below scoreInline it gets a goroutine.
const (
	quickTime   = 10 * time.Microsecond
	scoreInline = 4
	scoreMax    = 16
	scoreSlow   = -12 // one slow run from the maximum may be the machine's doing
	scoreStuck  = -64
	sampleEvery = 31 // inline runs, since reading the clock costs as much as a small handler; prime, so that no pattern hides one
)

// quick reports whether the handler may be run inline.
func (h *handler) quick() bool { return h.score.Load() >= scoreInline }

// wasStolen notes that an inline run outlasted a tick, or waited for a call of its
// own.
func (h *handler) wasStolen() {
	if !h.fixed {
		h.score.Store(scoreStuck)
	}
}

// took notes how long a run took.
func (h *handler) took(d time.Duration) {
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

// registry holds the handlers of a server or client.
type registry struct {
	mu   sync.Mutex
	byID atomic.Pointer[map[uint64]*handler] // replaced when one is added
}

func (r *registry) handlers() *registry { return r }

func (r *registry) add(h *handler, opts []HandlerOption) {
	for _, opt := range opts {
		opt(h)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[uint64]*handler{h.info.ID: h}
	if old := r.byID.Load(); old != nil {
		for id, other := range *old {
			if id == h.info.ID {
				panic(fmt.Sprintf("tandem: methods %q and %q have the same id %#x: each takes one handler", other.info.Name, h.info.Name, id))
			}
			next[id] = other
		}
	}
	r.byID.Store(&next)
}

func (r *registry) find(id uint64) *handler {
	if m := r.byID.Load(); m != nil {
		return (*m)[id]
	}
	return nil
}

// names lists the methods that have handlers, for error messages.
func (r *registry) names() string {
	var names []string
	if m := r.byID.Load(); m != nil {
		for _, h := range *m {
			names = append(names, fmt.Sprintf("%q", h.info.Name))
		}
	}
	if names == nil {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
