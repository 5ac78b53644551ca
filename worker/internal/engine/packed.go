package engine

import (
	"fmt"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// The small notifications of a batch that follow each other and are for the same method
// travel as the items of one frame, which costs both sides about as much as one of them
// would. The receiver handles them in one run, one after the other.

// notifications returns how many a frame of [drivers.KindNotify] holds.
func notifications(f *drivers.Frame) uint64 { return max(1, f.Tx) }

// isPacked reports whether f holds notifications as items.
func isPacked(f *drivers.Frame) bool { return f.Kind == drivers.KindNotify && f.Tx > 0 }

// nextOf returns the next of the n notifications that items holds, and what follows it.
func nextOf(items []byte, n uint64) (item, rest []byte, err error) {
	item, rest, err = drivers.NextItem(items)
	if err == nil && n == 1 && len(rest) > 0 {
		err = fmt.Errorf("%w: malformed items: %d bytes behind the last", ipc.ErrProtocol, len(rest))
	}
	return item, rest, err
}

// packed is what is left of a frame of several notifications while their handler runs.
type packed struct {
	n        uint64 // notifications that have not begun
	items    []byte // what holds them
	begun    bool   // the first one has
	contexts []requestContext
}

// runPacked runs the handler for each notification of r. timed says to note how long the
// first run took; b is the background reader if that runs them.
func (s *Session) runPacked(r *Request, timed bool, b *backgroundReader) {
	p := &r.packed
	if r.borrowed {
		// One of the handlers may take long, or wait for what comes over the link.
		r.copyRequest()
		if b != nil {
			b.requestRead(s)
		}
	}
	container, owned := r.payload, r.owned
	p.items, r.owned = r.payload, false
	returned := false
	defer func() {
		if !returned { // the handler ends its goroutine, which it does not do to the other ones
			r.payload = p.items
			s.runPacked(r, false, b)
			r.ctx.cancel(drivers.ReasonGivenUp)
		}
	}()
	for s.nextPacked(r, b) {
		s.runOne(r, timed, b)
		timed = false
	}
	if owned {
		s.link.Recycle(container)
	}
	returned = true
}

// packedRuns is how many notifications the background reader handles before it says so,
// for the watchdog.
const packedRuns = 8

// nextPacked makes r the next notification of its frame, and returns false if there is
// none.
func (s *Session) nextPacked(r *Request, b *backgroundReader) bool {
	p := &r.packed
	if p.n == 0 {
		return false
	}
	item, rest, err := nextOf(p.items, p.n)
	if err != nil {
		p.n = 0
		s.Fail(err)
		return false
	}
	p.n--
	p.items = rest
	r.payload = item
	if !p.begun {
		p.begun = true // with the context that r has
		return true
	}
	c := r.ctx
	if !c.reusable() || !r.handler.InPlace {
		c.cancel(drivers.ReasonGivenUp)
		c = takeContext(&p.contexts, min(p.n+1, contextChunk))
	}
	c.init(s, 0, 0)
	r.ctx, r.inPlace = c, placement{}
	if b != nil {
		if p.n%packedRuns == 0 {
			b.goOn(s)
		}
		c.word = b.word
	}
	return true
}

// dispatchPacked is dispatch for each of the notifications of a frame, for a handler that
// runs beside itself.
func (s *Session) dispatchPacked(h *Handler, f *drivers.Frame) {
	items, cost := f.Payload, costOf(f)
	for n := f.Tx; n > 0; n-- {
		item, rest, err := nextOf(items, n)
		if err != nil {
			s.Fail(err)
			break
		}
		one := drivers.Frame{Kind: f.Kind, Method: f.Method, Payload: item}
		cost -= costOf(&one)
		s.dispatchOne(h, &one, true)
		items = rest
	}
	f.Payload = nil
	s.finishReading(true, cost)
}
