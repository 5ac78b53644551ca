package engine

import (
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
)

// backgroundReader reads the link while no caller does, and runs quick handlers itself.
type backgroundReader struct {
	generation uint64
	request    Request         // of its present run
	spare      *requestContext // can be used again, or nil

	follows   bool // there is another frame already
	gathering bool // answers may wait
	since     int  // frames since the first of them

	run    uint64        // number of the present run
	word   uint64        // the reader state when that, or its present part, began
	copied atomic.Uint64 // the run whose request nobody needs any more

	answersMu sync.Mutex // guards answers
	answers   *frames    // that wait, or nil

	// A goroutine that takes the state over during a run takes care of what the run
	// holds, unless the run has just ended.
	mu       sync.Mutex
	finished bool // the run
	detached bool
	release  func()
	lease    *leaseWatch
	lane     *lane // that the run holds up
}

// startBackgroundReader starts the background reader of a generation, which begins by
// reading if it is given the reader state.
func (s *Session) startBackgroundReader(generation uint64, reading bool) {
	s.handling.Go(func() {
		b := &backgroundReader{generation: generation}
		if reading && !s.readInBackground(b) {
			return
		}
		wanted := s.wanted // made once: a method value is memory
		for !s.Failing() {
			s.link.Sleep(wanted)
			if s.reader.state.Load()&readerTaken == 0 && s.acquire(nil) && !s.readInBackground(b) {
				return
			}
		}
	})
}

// wanted reports whether the background reader has something to do.
func (s *Session) wanted() bool {
	return s.Failing() || s.reader.state.Load()&readerTaken == 0 && s.link.Ready()
}

// readInBackground reads until nothing comes for a while, and releases the reader
// state. It returns false if b was replaced meanwhile.
func (s *Session) readInBackground(b *backgroundReader) bool {
	f := &s.reader.frame
	for frames := 0; ; frames++ {
		ok, err := s.link.Next(f)
		if err != nil {
			s.Fail(err)
			s.release(false)
			return true
		}
		if frames%64 == 63 && s.ended() {
			if ok {
				discard(f)
			}
			f.Payload = nil
			s.release(false) // though the peer goes on sending
			return true
		}
		if !ok {
			b.flush(s)
			switch {
			case !s.config.Handlers.serves():
				// Only answers come. A caller that waits for one polls, or has given
				// that up; a new one finds the state free.
				s.release(false)
				return true
			case s.waiters.n.Load() > 0:
				s.release(true)
				return true
			case s.Failing() || !s.link.Spin():
				s.release(false)
				return true
			}
			continue
		}
		if b.since++; b.since > maxSince || isPacked(f) { // which takes as long as many
			b.flush(s)
		}
		if f.Kind == drivers.KindOpen {
			if s.heard(); !s.serveInBackground(b, f) {
				return s.returned(b.generation)
			}
			discard(f)
			continue
		}
		h := s.receive(f)
		switch {
		case h == nil:
			discard(f)
			f.Payload = nil // so that it does not keep the memory
			b.flush(s)
		case !h.quick() || f.Kind == drivers.KindNotify && s.laneIsBusy(h):
			b.flush(s)
			s.dispatch(h, f)
			discard(f)
		case !s.runInBackground(b, h, f):
			return s.returned(b.generation)
		}
	}
}

// runInBackground runs a handler in the background reader's own goroutine. It returns
// false if the reader state was taken over meanwhile.
func (s *Session) runInBackground(b *backgroundReader, h *Handler, f *drivers.Frame) bool {
	r := &b.request
	r.init(s, h, f, b.spare)
	r.background = b
	// What is to be kept if the link ends must not wait for other answers.
	b.spare, b.follows = nil, f.More && !s.replay.keeps()
	timed := b.beginRun(s)
	// SYNC: pairs with Session.Drain.
	if s.inFlight.draining.Load() {
		s.refuse(r.kind(), r.tx, r.cost, errDraining) // f is the reader's
		r.cost = 0                                    // the refusal gives it back
	} else {
		returned := false
		defer func() {
			if !returned { // by runtime.Goexit: the watchdog finds the reader state abandoned
				b.finishRun(s)
				b.flush(s)
			}
		}()
		s.run(r, timed, b)
		returned = true
	}
	if s.reader.state.CompareAndSwap(b.word, b.word+readerPolling-readerHandling) {
		s.finishReading(r.oneWay, r.cost)
		switch {
		case !h.InPlace: // it was cancelled
		case r.ctx.reusable():
			b.spare = r.ctx // its time is over, by contract
		default:
			r.ctx.cancel(drivers.ReasonGivenUp)
		}
		r.clear()
		return true
	}
	r.ctx.cancel(drivers.ReasonGivenUp)
	b.finishRun(s)
	b.flush(s)
	r.clear()
	return false
}

// beginRun says that a run begins. timed says to note how long it takes.
func (b *backgroundReader) beginRun(s *Session) (timed bool) {
	b.finished = false // nobody looks before the state says handling
	s.reader.running = b
	s.reader.runs++
	b.run = s.reader.runs
	word := s.reader.state.Add(readerTurn + readerHandling - readerPolling)
	b.request.ctx.word = word
	b.word = word
	s.watchdog.activate(s)
	return b.run%sampleEvery == 0
}

// goOn says that another part of the present run begins, unless the reader state was taken
// over.
func (b *backgroundReader) goOn(s *Session) {
	if s.reader.state.CompareAndSwap(b.word, b.word+readerTurn) {
		b.word += readerTurn
	}
}

// detachRun makes the run of a background reader from which the state was taken over
// one like those in goroutines of their own. The caller holds the reader state.
func (b *backgroundReader) detachRun(s *Session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.finished {
		return
	}
	b.detached = true
	s.inFlight.n.Add(1)
	// Its request may lie where later frames will.
	b.release = s.link.Hold()
	// SYNC: pairs with backgroundReader.requestRead.
	if b.copied.Load() == b.run {
		b.releaseRequest()
	}
	s.handling.Go(func() { s.sendGathered(b.takeAnswers()) }) // which wait for this handler's
	r := &b.request
	b.lease = s.watchLease(r.handler)
	switch {
	case r.stream:
	case !r.oneWay: // of which r.ctx changes in the middle of a run
		s.tracked.add(r.ctx)
		r.ctx.fixDeadline()
	case r.handler.semaphore == nil:
		// Later notifications wait for this one.
		b.lane = s.occupyLane(r.handler)
	}
	r.handler.wasTakenOver()
}

// requestRead is called in the middle of a run when nobody needs its request any more.
func (b *backgroundReader) requestRead(s *Session) {
	// SYNC: pairs with backgroundReader.detachRun, which is called when the state has
	// changed, and then loads copied.
	if b.copied.Store(b.run); s.reader.state.Load() != b.word {
		b.mu.Lock()
		b.releaseRequest()
		b.mu.Unlock()
	}
}

// releaseRequest gives the memory of the request back, if it was held.
func (b *backgroundReader) releaseRequest() {
	if b.release != nil {
		b.release()
		b.release = nil
	}
}

// finishRun ends a run from which the reader state was or will be taken over. That may
// not have detached it yet, and then does not any more.
func (b *backgroundReader) finishRun(s *Session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.finished = true
	s.finish(b.request.oneWay, b.request.cost)
	if !b.detached {
		return
	}
	b.detached = false
	b.lease.stop()
	b.releaseRequest()
	if !b.request.oneWay && !b.request.stream {
		s.tracked.remove(b.request.ctx)
	}
	if b.lane != nil {
		b.lane.proceed()
		b.lane = nil
	}
	s.inFlight.n.Add(-1)
}

// returned is called by the background reader of a generation when its reader state
// was taken over and its handler has returned. It reports whether it still is the
// background reader.
func (s *Session) returned(generation uint64) bool {
	for {
		word := s.reader.state.Load()
		if word&readerGeneration != generation {
			return false
		}
		if s.reader.state.CompareAndSwap(word, word&^readerAway) {
			return true
		}
	}
}
