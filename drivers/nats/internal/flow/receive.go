package flow

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/tandemipc/tandem/ipc"
)

// in is what a flow has received. What the peer may send is bounded by a window of bytes, which
// grows while it is read, within what all flows of the port may have together.
type in struct {
	granted atomic.Int64 // how many bytes of frames the peer may send in all
	wake    chan struct{}

	// Guarded by Flow.mu.
	arrivals []arrival // from index first on those that nobody has read yet
	first    int
	ended    bool        // the peer sends no further items
	deaf     bool        // this side takes no further items
	untold   atomic.Bool // the peer has yet to be told that
	received int64
	limit    int64 // the window: of what was received and not read

	// Of the goroutine that receives.
	taken     int64 // bytes of frames that were read in all
	current   int64 // what the frame that is being read counts for
	rest      []byte
	assembled []byte // pieces of an item
	begun     bool   // they are of an item whose Receive was interrupted
	attached  bool   // the last item is
}

// arrival is the body of a frame with items, or with a note.
type arrival struct {
	body []byte
	cost int64
	note bool
}

// maxKept is the largest memory that is kept for the next item that comes in pieces.
const maxKept = 256 << 10

func (in *in) init() {
	in.wake = make(chan struct{}, 1)
	in.limit = Initial
	in.granted.Store(Initial)
}

// put takes what a frame has brought. Flow.mu is held.
func (in *in) put(a arrival) {
	if len(in.arrivals) == cap(in.arrivals) && in.first > len(in.arrivals)/2 {
		n := copy(in.arrivals, in.arrivals[in.first:])
		clear(in.arrivals[n:])
		in.arrivals, in.first = in.arrivals[:n], 0
	}
	in.arrivals = append(in.arrivals, a)
	signal(in.wake)
}

// take returns the next frame, if there is one. Flow.mu is held.
func (in *in) take() (a arrival, ok bool) {
	if in.first == len(in.arrivals) {
		return a, false
	}
	a = in.arrivals[in.first]
	in.arrivals[in.first] = arrival{}
	if in.first++; in.first == len(in.arrivals) {
		in.arrivals, in.first = in.arrivals[:0], 0
	}
	return a, true
}

// drop forgets what nobody has read. Flow.mu is held.
func (in *in) drop() { in.arrivals, in.first = nil, 0 }

// Receive returns the next item, which is valid until the next call. It returns io.EOF after the
// last one, if the peer has ended without an error.
func (f *Flow) Receive(ctx context.Context) ([]byte, error) {
	in := &f.in
	begun := in.begun
	if in.begun = false; !begun {
		if cap(in.assembled) > maxKept {
			in.assembled = nil
		}
		in.assembled = in.assembled[:0]
	}
	for {
		for len(in.rest) == 0 {
			if err := f.next(ctx, begun); err != nil {
				return nil, err
			}
		}
		item, rest, as, err := nextItem(in.rest)
		if err == nil && len(in.assembled)+len(item) > f.port.config.MaxItem {
			err = ipc.Errorf(ipc.CodeResourceExhausted, "tandem: an item of more than %d bytes, which is the most that this side takes", f.port.config.MaxItem)
		}
		if err != nil {
			return nil, f.broken(err)
		}
		in.rest, in.attached = rest, as&attached != 0
		last := as&piece == 0
		if last && !begun {
			return item, nil
		}
		if in.assembled = append(in.assembled, item...); last {
			return in.assembled, nil
		}
		begun = true
	}
}

// Attached reports whether the item that Receive has returned last was sent by [Flow.SendAttached]. It is of
// the goroutine that receives.
func (f *Flow) Attached() bool { return f.in.attached }

// Buffered reports whether Receive would return an item, or an end, without waiting for a frame. It
// is of the goroutine that receives.
func (f *Flow) Buffered() bool {
	if len(f.in.rest) > 0 {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over || f.in.ended || f.in.first < len(f.in.arrivals)
}

// broken gives up a flow whose peer has sent what it must not, and returns the error of that.
func (f *Flow) broken(err error) error {
	f.Abort(err)
	return err
}

// next gives back what the last frame has taken of the window, and makes the next one with items
// the current one, when it is there. begun says that an item is read in part.
func (f *Flow) next(ctx context.Context, begun bool) error {
	in := &f.in
	for {
		f.mu.Lock()
		in.taken += in.current
		in.current = 0
		a, ok := in.take()
		more := false
		if !f.over && !in.ended && !in.deaf {
			more = f.widenLocked()
		}
		over, ended, err := f.over, in.ended, f.err
		end := f.end
		if over && !ok {
			f.end = nil
		}
		f.mu.Unlock()
		if more {
			f.beatNow()
		}
		switch {
		case ok:
			in.current = a.cost
			if !a.note {
				in.rest = a.body
				return nil
			}
			if err := f.noted(a.body); err != nil {
				return err
			}
			continue
		case over:
			if len(end) > 0 {
				if err := f.noted(end); err != nil {
					return err
				}
			}
			if err == io.EOF && begun {
				return fmt.Errorf("%w: a stream that ends within an item", ipc.ErrProtocol)
			}
			return err
		case ended && begun:
			return f.broken(fmt.Errorf("%w: items that end within one", ipc.ErrProtocol))
		case ended:
			return io.EOF
		case ctx.Err() != nil:
			return f.interrupted(ctx, begun)
		}
		f.flushNow() // the peer may wait for it
		select {
		case <-in.wake:
		case <-f.done:
		case <-ctx.Done():
			return f.interrupted(ctx, begun)
		}
	}
}

// interrupted is the error of a Receive whose context has ended. What was read of an item is kept.
func (f *Flow) interrupted(ctx context.Context, begun bool) error {
	f.in.begun = begun
	return ctx.Err()
}

// noted passes a note on.
func (f *Flow) noted(b []byte) error {
	if f.note == nil {
		return f.broken(fmt.Errorf("%w: a note", ipc.ErrProtocol))
	}
	if err := f.note(b); err != nil {
		return f.broken(err)
	}
	return nil
}

// widenLocked grants the peer more bytes, unless it may send half a window anyway. f.mu is held.
func (f *Flow) widenLocked() bool {
	in := &f.in
	granted := in.granted.Load()
	open := granted - in.taken
	if open > in.limit/2 {
		return false
	}
	if wanted := min(2*in.limit, f.port.config.Window); wanted > in.limit && f.port.budget.take(wanted-in.limit) {
		in.limit = wanted
	}
	in.granted.Store(granted + in.limit - open)
	return true
}

// Widen lets the peer send n bytes that nobody has read, where the window is smaller yet and the
// budget of the port allows it.
func (f *Flow) Widen(_ context.Context, n int) {
	f.mu.Lock()
	in := &f.in
	more := min(int64(n), f.port.config.Window) - in.limit
	if f.over || in.ended || in.deaf || more <= 0 || !f.port.budget.take(more) {
		f.mu.Unlock()
		return
	}
	in.limit += more
	in.granted.Add(more)
	f.mu.Unlock()
	f.beatNow()
}

// beatNow tells the peer, if there is one yet, what it may send. If that cannot be sent now the next
// frame tells it.
func (f *Flow) beatNow() {
	if f.peer.Load() != nil {
		_ = f.transmit(kindAlive, make([]byte, header))
	}
}

// TakeNoMore says that this side takes no further items. What comes is dropped, and the peer's
// Send returns io.EOF.
func (f *Flow) TakeNoMore() {
	f.mu.Lock()
	known := f.over || f.in.ended || f.in.deaf
	f.in.deaf = true
	f.in.drop()
	f.mu.Unlock()
	if !known && f.peer.Load() != nil {
		f.in.untold.Store(f.transmit(kindDeaf, make([]byte, header)) != nil) // then the next beat tells
	}
}
