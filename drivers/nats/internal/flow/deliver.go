package flow

import (
	"fmt"
	"strings"

	"github.com/tandemipc/tandem/ipc"
)

// ending is what a frame makes of a flow that it ends.
type ending struct {
	err  error
	drop bool // what has come is not to be read
	tell bool // the peer does not know
}

// deliver takes a message that has come, and keeps b. It does not block.
func (f *Flow) deliver(b []byte) {
	fr, err := parseFrame(b)
	f.mu.Lock()
	if f.over {
		late := f.peer.Load() == nil && err == nil && f.accepts(&fr)
		f.mu.Unlock()
		if late { // it was given up before it was accepted
			f.forget()
			go f.tell(f.Err())
		}
		return
	}
	var end *ending
	if err == nil {
		end, err = f.take(&fr, cost(len(b)))
	}
	f.mu.Unlock()
	if err != nil {
		end = &ending{err, false, true}
	}
	switch {
	case end == nil:
	case end.tell:
		f.fail(end.err, end.drop)
	default:
		f.finish(end.err, end.drop)
	}
	if end != nil && f.peer.Load() == nil {
		f.forget() // it was refused, and nobody has to be told
	}
}

// accepts notes the peer that a frame of kindAccept names, if it may be that. f.mu is held.
func (f *Flow) accepts(fr *frame) bool {
	subject := string(fr.body)
	if fr.kind != kindAccept || fr.number != 1 || f.accepted || !validSubject(subject) || !strings.HasPrefix(subject, f.expect) || fr.granted < Initial {
		return false
	}
	f.peer.Store(&subject)
	return true
}

// take takes a frame of this cost. It returns an error if the peer must not have sent it, or if
// one before it is missing. f.mu is held.
func (f *Flow) take(fr *frame, cost int64) (*ending, error) {
	if fr.number != f.heard+1 {
		return nil, ipc.Errorf(ipc.CodeUnavailable, "tandem: messages of the stream were lost or doubled: number %d has come after %d: %w", fr.number, f.heard, ipc.ErrDisconnected)
	}
	f.heard, f.missed = fr.number, 0
	if fr.kind == kindAbort {
		return &ending{err: ipc.ParseError(fr.body), drop: f.accepted}, nil
	}
	if granted := f.out.granted.Load(); fr.granted < granted {
		return nil, fmt.Errorf("%w: a stream's window of %d bytes, which was %d", ipc.ErrProtocol, fr.granted, granted)
	}
	first := f.peer.Load() == nil
	if first && !f.accepts(fr) {
		return nil, fmt.Errorf("%w: a frame of kind %d, which does not accept the stream", ipc.ErrProtocol, fr.kind)
	}
	if fr.granted > f.out.granted.Load() {
		f.out.widen(fr.granted) // who sends then needs to know the peer
	}
	if first {
		close(f.opened)
		return nil, nil
	}
	in := &f.in
	if bare := fr.kind == kindAlive || fr.kind == kindSent || fr.kind == kindDeaf; bare && len(fr.body) > 0 {
		return nil, fmt.Errorf("%w: a frame of kind %d with %d bytes", ipc.ErrProtocol, fr.kind, len(fr.body))
	}
	switch fr.kind {
	case kindItems, kindNote:
		in.received += cost
		switch {
		case in.ended:
			return nil, fmt.Errorf("%w: items after the last one", ipc.ErrProtocol)
		case in.received > in.granted.Load():
			return nil, fmt.Errorf("%w: %d bytes of a stream, of which %d may come", ipc.ErrProtocol, in.received, in.granted.Load())
		case in.deaf:
		case fr.kind == kindItems && len(fr.body) == 0:
			return nil, fmt.Errorf("%w: a frame without items", ipc.ErrProtocol)
		default:
			in.put(arrival{fr.body, cost, fr.kind == kindNote})
		}
	case kindAlive:
	case kindSent:
		if in.ended {
			return nil, fmt.Errorf("%w: items end twice", ipc.ErrProtocol)
		}
		in.ended = true
		signal(in.wake)
	case kindDeaf:
		f.out.refused.Store(true)
		signal(f.out.wake)
	case kindEnd:
		note, failure, err := parseEnd(fr.body)
		switch {
		case err != nil:
			return nil, err
		case f.accepted:
			return nil, fmt.Errorf("%w: an end from the side that has opened the stream", ipc.ErrProtocol)
		}
		f.end = note
		return &ending{err: failure}, nil
	default:
		return nil, fmt.Errorf("%w: a frame of kind %d", ipc.ErrProtocol, fr.kind)
	}
	return nil, nil
}

// signal wakes the goroutine that waits for c, or the next one that does.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
