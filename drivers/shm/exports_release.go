package shm

import (
	"context"
	"slices"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/sealed"
)

// released frees a place whose use the peer has released. It does not block. It fails if the peer says
// so too often.
func (e *exports) released(place uint32, use uint64) (ok bool) {
	return e.telling.start(func() {
		if !e.lock.Lock(context.Background(), e.gone) {
			return
		}
		defer e.lock.Unlock()
		if int(place) < len(e.places) && e.places[place].use == use && e.takeOut(place) {
			e.release(place)
		}
	})
}

// takeOut takes a place out of those that are used, and returns false if it is none. The lock is
// held.
func (e *exports) takeOut(place uint32) bool {
	i := slices.Index(e.sent[e.first:], place)
	if i >= 0 {
		e.sent = slices.Delete(e.sent, e.first+i, e.first+i+1)
	}
	return i >= 0
}

// takeBack frees the places of handles that were not sent.
func (e *exports) takeBack(handles []byte) {
	_ = e.lock.Lock(context.Background(), nil)
	defer e.lock.Unlock()
	e.undo(handles)
}

// undo is takeBack when the lock is held.
func (e *exports) undo(handles []byte) {
	for len(handles) > 0 && !e.ended {
		h, rest, err := drivers.NextHandle(handles)
		if err != nil {
			return
		}
		handles = rest
		// A place whose use a hostile peer has released early is free already.
		if e.takeOut(h.Place) {
			e.places[h.Place].use--
			e.release(h.Place)
		}
	}
}

// release lets go of the buffer in a place. The lock is held.
func (e *exports) release(place uint32) {
	p := &e.places[place]
	hold := p.hold
	p.region.held--
	e.leaveLost(p.region)
	e.bytes -= hold.Len()
	p.hold, p.region = ipc.Buffer{}, nil
	if p.spilled {
		e.spilled--
		p.spilled = false
	}
	e.free = append(e.free, place)
	hold.Release()
}

// reclaim lets go of what the peer has released: of the n oldest up to the first that it has not, or
// with maxPlaces of all. It reports whether it knows what that is: the acks come soon after the first buffer. The lock is held.
func (e *exports) reclaim(n int) (known bool) {
	acks := e.acks.Load()
	if acks == nil {
		return e.records.Load() || e.first == len(e.sent)
	}
	words, all := sealed.Words(acks.Bytes()), n >= maxPlaces
	for ; n > 0 && e.first < len(e.sent); n-- {
		place := e.sent[e.first]
		if words[place].Load() != e.places[place].use {
			break
		}
		e.first++
		e.release(place)
	}
	if e.first == len(e.sent) {
		e.sent, e.first = e.sent[:0], 0
	}
	if !all {
		return true
	}
	rest := e.sent[e.first:]
	kept := rest[:0]
	for _, place := range rest {
		if words[place].Load() == e.places[place].use {
			e.release(place)
		} else {
			kept = append(kept, place)
		}
	}
	e.sent = e.sent[:e.first+len(kept)]
	return true
}

// Reclaim implements [ipc.RegionUser].
func (e *exports) Reclaim() {
	if e.lock.TryLock() { // or somebody is sending
		e.reclaim(maxPlaces)
		e.lock.Unlock()
	}
}

// How often the acks are looked at while nothing else does so: soon if the peer has what another
// process has made, which waits for that, and otherwise so that memory is given back some time.
const (
	minSweep     = time.Millisecond
	foreignSweep = 20 * time.Millisecond
	ownSweep     = time.Second
)

// sweepLater starts the sweeper if it does not run. The lock is held.
func (e *exports) sweepLater(foreign bool) {
	if foreign && !e.foreign && e.sweeper != nil {
		e.pause = minSweep
		e.sweeper.Reset(e.pause)
	}
	e.foreign = e.foreign || foreign
	if e.sweeper == nil {
		e.pause = minSweep
		e.sweeper = time.AfterFunc(e.pause, e.sweep)
	}
}

// sweep is what the sweeper does. It rests when the peer has nothing.
func (e *exports) sweep() {
	if !e.lock.Lock(context.Background(), e.gone) {
		return
	}
	defer e.lock.Unlock()
	if e.ended || e.sweeper == nil {
		return
	}
	e.reclaim(maxPlaces)
	if e.first == len(e.sent) {
		e.sweeper, e.foreign = nil, false
		return
	}
	most := ownSweep
	if e.foreign {
		most = foreignSweep
	}
	e.pause = min(2*e.pause, most)
	e.sweeper.Reset(e.pause)
}
