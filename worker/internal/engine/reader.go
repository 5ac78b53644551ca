package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/bulk"
)

// One goroutine at a time polls a session's link: it holds the reader state. That is a
// caller that waits for its answer, so that no goroutine has to be switched to when
// the answer comes, or else the background reader, which sleeps while there is nothing
// to read.
//
//	        acquire                       release
//	free --------------> polling ----------------------> free or unarmed
//	 the link is armed,   |   ^
//	 the background       v   | the handler has returned
//	 reader sleeps      handling ----------------------> polling, by another goroutine;
//	                  the background reader   takeOver   the background reader is away
//	                  runs a handler
//
// To arm the link and to take that back costs both sides a cache miss. While calls
// follow each other closely the state is therefore left unarmed: free, but the link is
// not armed. The watchdog arms it when a tick has passed without a call. This is done
// where nothing but answers is expected, so nothing is late by it, and where the goroutine
// that reads a stream has come back within microseconds lately, so something is late, by a
// tick or two, or a rareTick after a pause, only if that goroutine then stops.
//
// While the background reader runs a handler it does not touch the link, so another
// goroutine may take the state over: the handler's own calls do that, and so does the
// watchdog if the handler runs for longer than a tick. A background reader that finds
// its state taken over goes back to sleep, or ends if it has been replaced.
//
// All of this is one word:
//
//	bit 0-1    free, polling, unarmed or handling; nobody reads if bit 0 is 0
//	bit 2      away: the state was taken over from the background reader, so nobody sleeps
//	bit 3-22   generation of the background reader
//	bit 23-63  how often the state was taken or a handler was run in the background reader
const (
	readerFree     uint64 = 0
	readerPolling  uint64 = 1
	readerUnarmed  uint64 = 2
	readerHandling uint64 = 3
	readerState    uint64 = 3
	readerTaken    uint64 = 1

	readerAway uint64 = 1 << 2

	readerGeneration    uint64 = (readerTurn - 1) &^ (readerAway<<1 - 1)
	readerGenerationOne uint64 = 1 << 3

	readerTurn uint64 = 1 << 23
)

// reader is what the goroutine that holds the reader state works with.
type reader struct {
	state atomic.Uint64
	// deferArm says to leave the link unarmed. The watchdog alone writes it.
	deferArm atomic.Bool

	// Only the holder of the reader state touches the following.
	soon          bool          // it will be back in a moment: leave the link unarmed
	frame         drivers.Frame // the last that was read
	releases      uint          // how often the state was released
	denseSince    time.Time     // when that was last looked at
	contexts      []requestContext
	runs          uint64 // of handlers in the background reader
	running       *backgroundReader
	lastID        uint64 // of lastHandler
	lastHandler   *Handler
	lanes         map[*Handler]*lane
	requests      receiveWindow
	notifications receiveWindow
}

// acquire takes the reader state if it is free, or if the background reader runs the
// handler whose context is from: then the call is that handler's own, and nobody else
// would read its answer.
func (s *Session) acquire(from *requestContext) bool {
	word := s.reader.state.Load()
	switch state := word & readerState; state {
	case readerFree, readerUnarmed:
		if !s.reader.state.CompareAndSwap(word, word+readerTurn+readerPolling-state) {
			return false
		}
		if state == readerFree {
			s.link.Disarm()
		}
		return true
	case readerHandling:
		return from != nil && from.word == word && s.takeOver(word)
	}
	return false
}

// takeOver takes the reader state from a background reader that has been in a handler
// since the state was word.
func (s *Session) takeOver(word uint64) bool {
	if !s.reader.state.CompareAndSwap(word, word+readerTurn-readerHandling+readerPolling|readerAway) {
		return false
	}
	s.reader.running.detachRun(s)
	s.watchdog.activate(s)
	return true
}

// release gives the reader state up. If handOff is set and a caller waits, that one
// reads next. Otherwise the link is armed, now or by the watchdog, and the background
// reader sees to it.
func (s *Session) release(handOff bool) {
	soon := s.reader.soon
	s.reader.soon = false
	if handOff {
		if s.waiters.handOff() {
			return
		}
		if soon || s.reader.deferArm.Load() {
			s.reader.state.Add(readerUnarmed - readerPolling)
			// A caller that has parked, and a watchdog that has ended, before they
			// could see that are seen here.
			if s.waiters.n.Load() == 0 && s.watchdog.active.Load() || !s.acquire(nil) {
				return
			}
			s.release(s.waiters.n.Load() > 0)
			return
		}
		s.noteDensity()
	}
	s.link.Arm()
	s.reader.state.Add(^(readerPolling - readerFree) + 1)
	// A frame that came before the link was armed has rung no bell, and the background
	// reader may have looked when the state was not free.
	if s.link.Ready() {
		s.link.Wake()
	}
}

// Calls are dense when so many of them end within a time.
const (
	denseCalls = 16
	denseTime  = time.Millisecond
)

// noteDensity starts the watchdog when calls follow each other closely. It is called
// with the reader state.
func (s *Session) noteDensity() {
	r := &s.reader
	if r.releases++; r.releases%denseCalls != 0 || s.config.Handlers.serves() {
		return
	}
	now := time.Now()
	if now.Sub(r.denseSince) < denseTime {
		s.watchdog.activate(s)
	}
	r.denseSince = now
}

// maxServed is how many frames a caller delivers for others when it has its own.
const maxServed = 16

// poll is how a caller reads: until its own call has ended, or nothing comes for a
// while, or its context or the call's has ended. It releases the reader state.
func (s *Session) poll(ctx context.Context, c *call, timeout time.Duration) {
	f := &s.reader.frame
	for empty, frames, served := 1, 0, 0; ; {
		ok, err := s.link.Next(f)
		if err != nil {
			s.Fail(err)
			s.release(false)
			return
		}
		if ok {
			if (f.Kind == drivers.KindResponse || f.Kind == drivers.KindError && !s.Failing()) && c.takeOwn(f.Tx) {
				s.heard()
				s.fill(c, f)
			} else if h := s.receive(f); h != nil {
				// A caller does not run the handlers of others.
				s.dispatch(h, f)
			}
			discard(f)
			f.Payload = nil // so that it does not keep the memory
			// A caller still delivers what has arrived together with its own answer,
			// for that takes less time than to hand the reader state on.
			if c.done() {
				if served++; !f.More || served > maxServed {
					if s.reader.soon = c.soon; c.soon {
						s.watchdog.activate(s)
					}
					s.release(true)
					return
				}
			}
			// A peer that goes on sending does not prolong the call.
			if frames++; frames%64 == 0 && (c.givenUp(ctx) || c.over(timeout)) {
				s.release(true)
				return
			}
			continue
		}
		if served > 0 {
			s.reader.soon = c.soon
			s.release(true)
			return
		}
		if empty++; empty%8 == 0 {
			if c.done() || c.givenUp(ctx) || s.Failing() {
				s.release(true)
				return
			}
			// An answer that comes sooner costs no look at the clock.
			if empty%256 == 0 && c.over(timeout) {
				s.release(true)
				return
			}
		}
		if !s.link.Spin() {
			s.release(false)
			return
		}
	}
}

// receive deals with one frame, but for running a handler: it returns the handler of a
// request or notification. It is called with the reader state.
func (s *Session) receive(f *drivers.Frame) *Handler {
	s.heard()
	switch f.Kind {
	case drivers.KindResponse:
		s.settle(f)
	case drivers.KindError:
		// When this side has ended the session the peer's handlers end because of that, and
		// their errors do not say why.
		if s.Failing() {
			s.lateResponses.Add(1)
			break
		}
		s.settle(f)
	case drivers.KindRequest, drivers.KindNotify:
		if f.Handles != nil {
			if isPacked(f) {
				s.Fail(fmt.Errorf("%w: malformed frame: %d notifications with attachments", ipc.ErrProtocol, f.Tx))
				return nil
			}
			a, err := s.attachmentsOf(f)
			if err != nil {
				s.Fail(err)
				return nil
			}
			f.Attached = a
		}
		if err := s.admit(f); err != nil {
			s.Fail(err)
			return nil
		}
		r := &s.reader
		if r.lastHandler != nil && f.Method == r.lastID { // handlers are never removed
			return r.lastHandler
		}
		if h := s.config.Handlers.find(f.Method); h != nil && h.Stream == nil {
			r.lastID, r.lastHandler = f.Method, h
			return h
		}
		s.refuse(f.Kind, f.Tx, costOf(f), s.config.Handlers.unknown(f.Method))
	case drivers.KindCancel:
		reason := drivers.ReasonGivenUp
		if len(f.Payload) > 0 {
			reason = f.Payload[0]
		}
		if !s.tracked.cancel(f.Tx, reason) && s.replay != nil {
			s.replay.cancel(s, f.Tx, reason)
		}
	case drivers.KindCredit:
		if err := s.refill(f); err != nil {
			s.Fail(err)
		}
	case drivers.KindOpen, drivers.KindItems, drivers.KindWindow, drivers.KindEnd:
		if err := s.receiveStream(f); err != nil {
			s.Fail(err)
		}
	case drivers.KindGoodbye:
		s.lifetime.goodbyeOnce.Do(func() { close(s.lifetime.goodbye) })
	case drivers.KindPing:
		s.pong()
	case drivers.KindPong:
	case drivers.KindResume:
		err := fmt.Errorf("%w: this side does not resume calls", ipc.ErrProtocol)
		if s.replay != nil {
			err = s.replay.resume(s, f)
		}
		if err != nil {
			s.Fail(err)
		}
	default:
		s.Fail(fmt.Errorf("%w: unexpected frame of kind %v", ipc.ErrProtocol, f.Kind))
	}
	return nil
}

// settle delivers an answer to its call.
func (s *Session) settle(f *drivers.Frame) {
	c, parked := s.calls.take(f.Tx)
	if c == nil {
		s.late(f.Tx)
		return
	}
	s.fill(c, f)
	c.finish(parked)
}

// late counts an answer that nobody waits for. The worker has heard of the cancellation, if there was one.
func (s *Session) late(tx uint64) {
	if s.config.Resumer != nil {
		s.cancels.answered(tx)
	}
	s.lateResponses.Add(1) // last, for whoever waits for that
}

// fill writes an answer into its call, which the goroutine has taken.
func (s *Session) fill(c *call, f *drivers.Frame) {
	if f.Meta != nil {
		c.meta = f.Meta
	}
	if f.Attached != nil || f.Handles != nil {
		var err error
		if c.attached, err = s.attachmentsOf(f); err != nil {
			c.err = err
			s.Fail(err)
			return
		}
	}
	switch {
	case f.Kind == drivers.KindError:
		payload := f.Payload
		if !f.Owned {
			// The peer may change it meanwhile, and the decoder reads it twice.
			payload = slices.Clone(payload)
		}
		c.err = ipc.ParseError(payload)
	case f.Owned:
		s.link.Recycle(c.response) // in exchange
		c.response = f.Payload
	default:
		c.response = bulk.Append(c.response, f.Payload)
	}
}

// unsent deals with a frame that could not be sent. If the peer has gone, the reader
// finds that out by itself when it has delivered what came before.
func (s *Session) unsent(err error) {
	if !errors.Is(err, ipc.ErrPeerGone) && !errors.Is(err, ipc.ErrDisconnected) {
		s.Fail(err)
	}
}
