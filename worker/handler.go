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
// deadline passes, or the link ends.
//
// An error that f returns reaches the caller as an [*ipc.Error]: with its code
// if it is one, otherwise with the code that [ipc.CodeOf] finds. A panic becomes
// CodeInternal with the stack, and the worker lives on.
//
// A handler that has been quick lately is run by the goroutine that reads the
// link, and any other in a goroutine of its own; one that turns slow or blocks
// holds up the link for about a millisecond, and then has to be quick many times
// before the reader runs it again.
//
// Handle panics if m has a handler already.
func Handle[Req, Res any](r Registrar, m *ipc.Method[Req, Res], f func(ctx context.Context, req Req) (Res, error)) {
	r.handlers().add(&handler{
		info:  m.Info(),
		codec: m.Codec,
		invoke: func(ctx context.Context, codec ipc.Codec, request []byte, owned bool, dst []byte) ([]byte, error) {
			var req Req
			var err error
			if raw, ok := any(request).(Req); ok && owned && codec == ipc.Raw {
				req = raw
			} else if req, err = ipc.Unmarshal[Req](codec, request); err != nil {
				return nil, ipc.Errorf(ipc.CodeInvalidArgument, "decode the request of %q: %w", m.Info().Name, err)
			}
			res, err := f(ctx, req)
			if err != nil {
				return nil, err
			}
			if raw, ok := any(res).([]byte); ok && codec == ipc.Raw {
				return raw, nil
			}
			if dst, err = ipc.Marshal(codec, dst, res); err != nil {
				return nil, ipc.Errorf(ipc.CodeInternal, "encode the response of %q: %w", m.Info().Name, err)
			}
			return dst, nil
		},
	})
}

// handler is a registered handler.
type handler struct {
	info   ipc.MethodInfo
	codec  func(link ipc.Codec) ipc.Codec
	invoke func(ctx context.Context, codec ipc.Codec, request []byte, owned bool, dst []byte) ([]byte, error)

	// score says how quick it has been; see quick.
	score atomic.Int32
	runs  atomic.Uint32 // run inline
}

// How a handler's score moves. Below scoreInline it gets a goroutine.
const (
	quickTime   = 10 * time.Microsecond
	scoreInline = 4
	scoreMax    = 16
	scoreSlow   = -12 // one slow run from the maximum may be the machine's doing
	scoreStuck  = -64
	sampleEvery = 32 // inline runs, since reading the clock costs as much as a small handler
)

// quick reports whether the handler may be run inline.
func (h *handler) quick() bool { return h.score.Load() >= scoreInline }

// wasStolen notes that an inline run outlasted a tick, or waited for a call of its
// own.
func (h *handler) wasStolen() { h.score.Store(scoreStuck) }

// took notes how long a run took.
func (h *handler) took(d time.Duration) {
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

func (r *registry) add(h *handler) {
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
