package worker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// frames gathers frames, with copies of their payloads, to be sent together. Frames
// that are written to the link one by one wait for each other's cache misses or
// system calls.
type frames struct {
	list    []drivers.Frame
	payload []byte
}

const (
	maxFrames   = 16       // that are gathered: few enough for the peer to begin early
	maxGathered = 16 << 10 // bytes of their payloads; a larger one goes alone
)

// fits reports whether f can be added.
func (g *frames) fits(f *drivers.Frame) bool {
	return len(g.list) < maxFrames && len(g.payload)+len(f.Payload) <= maxGathered
}

func (g *frames) add(f drivers.Frame) {
	begin := len(g.payload)
	g.payload = append(g.payload, f.Payload...)
	f.Payload = g.payload[begin:]
	g.list = append(g.list, f)
}

func (g *frames) reset() { g.list, g.payload = g.list[:0], g.payload[:0] }

// What is gathered never moves.
var gathers = sync.Pool{New: func() any {
	return &frames{make([]drivers.Frame, 0, maxFrames), make([]byte, 0, maxGathered)}
}}

// batch is a session whose requests wait for each other.
type batch struct {
	*session

	mu       sync.Mutex    // futures may be waited for anywhere
	gathered *frames       // nil when the batch is over
	limit    time.Duration // the shortest one of what was gathered, or 0
}

var _ ipc.Batcher = (*session)(nil)

// Batch implements [ipc.Batcher].
func (s *session) Batch(ctx context.Context, f func(ipc.Caller) error) (err error) {
	b := &batch{session: s, gathered: gathers.Get().(*frames)}
	defer func() {
		if sent := b.end(ctx); err == nil {
			err = sent
		}
	}()
	return f(b)
}

// Batch implements [ipc.Batcher]: what a batch in a batch sends keeps its place.
func (b *batch) Batch(ctx context.Context, f func(ipc.Caller) error) (err error) {
	defer func() {
		if sent := b.flush(ctx); err == nil {
			err = sent
		}
	}()
	return f(b)
}

// Invoke implements [ipc.Caller]. A call that is waited for sends all before it.
func (b *batch) Invoke(ctx context.Context, inv ipc.Invocation) ([]byte, error) {
	if inv.OneWay {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return nil, b.add(ctx, &inv, drivers.Frame{Kind: drivers.KindNotify, Method: inv.Method.ID, Payload: inv.Request})
	}
	if err := b.flush(ctx); err != nil {
		return nil, err
	}
	return b.session.Invoke(ctx, inv)
}

// Start implements [ipc.Starter].
func (b *batch) Start(ctx context.Context, inv ipc.Invocation) (ipc.Pending, error) {
	return b.session.start(ctx, &inv, b)
}

// add gathers a frame, or sends it after those that were.
func (b *batch) add(ctx context.Context, inv *ipc.Invocation, f drivers.Frame) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	limit := b.timeoutOf(inv)
	if g := b.gathered; g != nil {
		if len(g.list) == 0 || limit > 0 && (b.limit == 0 || limit < b.limit) {
			b.limit = limit
		}
		if !g.fits(&f) {
			if err := b.send(ctx); err != nil {
				return err
			}
			b.limit = limit
		}
		if g.fits(&f) {
			g.add(f)
			return nil
		}
	}
	l := limits.Get().(*limited)
	defer limits.Put(l)
	return b.session.send(ctx, l, limit, inv.Method.Name, f)
}

// withdraw takes back the request of a call that was given up. It returns false if that
// was sent.
func (b *batch) withdraw(tx uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.gathered
	if g == nil {
		return false
	}
	before := len(g.list)
	g.list = slices.DeleteFunc(g.list, func(f drivers.Frame) bool { return f.Kind == drivers.KindRequest && f.Tx == tx })
	return len(g.list) < before
}

// flush sends what was gathered.
func (b *batch) flush(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.send(ctx)
}

// end ends the batch.
func (b *batch) end(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.send(ctx)
	gathers.Put(b.gathered)
	b.gathered = nil
	return err
}

// send sends what was gathered. The calls whose requests could not be sent fail.
func (b *batch) send(ctx context.Context) (err error) {
	g := b.gathered
	if g == nil {
		return nil
	}
	defer g.reset()
	for list := g.list; len(list) > 0; {
		l := limits.Get().(*limited)
		n, failed := b.link.SendBatch(l.bound(ctx, b.limit), list)
		ranOut := l.release()
		limits.Put(l)
		if failed == nil {
			break
		}
		list = list[n:]
		unsent := list
		var tooLarge *ipc.SizeError
		switch {
		case ranOut && ctx.Err() == nil:
			failed = &ipc.TimeoutError{What: "sending a batch", After: b.limit}
		case errors.As(failed, &tooLarge):
			unsent = list[:1] // the others may go
		default:
			failed = b.whyUnsent(ctx, failed)
		}
		for _, f := range unsent {
			if f.Kind != drivers.KindRequest {
				continue
			}
			if c, parked := b.calls.take(f.Tx); c != nil {
				c.err = failed
				c.finish(parked)
			}
		}
		list = list[len(unsent):]
		if err == nil {
			err = failed
		}
	}
	return err
}
