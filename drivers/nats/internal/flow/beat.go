package flow

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tandemipc/tandem/ipc"
)

// startBeat makes the flow beat, and listen for the beats of its peer, until it is over.
func (f *Flow) startBeat() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.over {
		f.timer = time.AfterFunc(f.beat, f.tick)
	}
}

// tick is called at each beat. It counts beats and not time: a process that was stopped for long
// has missed one.
func (f *Flow) tick() {
	known := f.peer.Load() != nil
	f.mu.Lock()
	if f.over && known {
		f.mu.Unlock()
		return
	}
	f.missed++
	dead, over := f.missed > Misses, f.over
	if !dead {
		f.timer.Reset(f.beat)
	}
	f.mu.Unlock()
	switch {
	case dead && over: // it has waited for a peer that has to be told
		f.forget()
	case dead:
		f.fail(f.gone(known), false)
		f.forget()
	case known:
		// A beat has a number, so a frame that was lost is noticed though nothing follows it. If
		// the wire is busy something is being sent.
		if f.wire.TryLock() {
			kind := kindAlive
			if f.in.untold.Load() {
				kind = kindDeaf
			}
			if f.transmitLocked(kind, make([]byte, header)) == nil { // or the next one tells
				f.in.untold.Store(false)
			}
			f.wire.Unlock()
		}
	}
}

// gone is the end of a flow whose peer has not been heard of.
func (f *Flow) gone(known bool) error {
	what := "the other side of the stream was not heard of for %d times %v: %w"
	if !known {
		what = "nobody has accepted the stream within %d times %v: %w"
	}
	return ipc.Errorf(ipc.CodeUnavailable, "tandem: "+what, Misses, f.beat, ipc.ErrPeerGone)
}

// nobody ends a flow that was sent to a subject without a subscriber.
func (f *Flow) nobody() {
	if f.peer.Load() != nil {
		return
	}
	f.finish(ipc.Errorf(ipc.CodeUnavailable, "tandem: no service takes the stream: %w", nats.ErrNoResponders), true)
	f.forget()
}

// forget takes a flow that is over out of its port, though its peer is not known.
func (f *Flow) forget() {
	f.mu.Lock()
	if f.timer != nil { // it may have been over before it began to beat
		f.timer.Stop()
	}
	f.mu.Unlock()
	f.port.remove(f)
}
