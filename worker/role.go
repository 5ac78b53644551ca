package worker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/drivers"
)

// One goroutine at a time reads a session's link: it holds the reader role.
// That is a caller that waits for its answer (it polls, so that no goroutine
// has to be switched to), or else the keeper, which sleeps while there is
// nothing to read.
//
//	          acquire                        leave
//	idle ----------------> reading ----------------------> idle or lazy
//	  the link is armed,    |   ^
//	  the keeper sleeps     v   | the handler has returned
//	                       inline ---------------------> reading, by a thief,
//	                  the keeper runs a handler   steal    the keeper is away
//
// Arming the link and taking that back costs both sides a cache miss. While calls
// follow each other closely the role is therefore left lazy: free, but not armed,
// and the stand-by arms the link when a tick has passed without a call. That is
// done only where nothing but answers is expected, so nothing is late by it.
//
// While the keeper runs a handler it does not touch the link, so anyone may
// steal the role from it: calls do that the handler itself makes, and the
// stand-by does if the handler runs for longer than a tick. A keeper that finds
// the role stolen goes back to sleep, or ends if it has been replaced.
//
// All of this is one word:
//
//	bit 0-1    idle, reading, lazy or inline; free if bit 0 is 0
//	bit 2      away: the role was stolen from the keeper, so nobody sleeps
//	bit 3-22   number of the keeper
//	bit 23-63  count of the times a role was taken or a handler was run inline
const (
	roleIdle    uint64 = 0
	roleReading uint64 = 1
	roleLazy    uint64 = 2
	roleInline  uint64 = 3
	roleState   uint64 = 3
	roleTaken   uint64 = 1

	roleAway uint64 = 1 << 2

	roleKeeper    uint64 = (roleOne - 1) &^ (roleAway<<1 - 1)
	roleKeeperOne uint64 = 1 << 3

	roleOne uint64 = 1 << 23
)

// acquire takes the reader role if it is free, or if its holder runs a handler.
func (s *session) acquire() bool {
	role := s.role.Load()
	switch state := role & roleState; state {
	case roleIdle, roleLazy:
		if !s.role.CompareAndSwap(role, role+roleOne+roleReading-state) {
			return false
		}
		if state == roleIdle {
			s.link.Disarm()
		}
		return true
	case roleInline:
		return s.steal(role)
	}
	return false
}

// steal takes the reader role from a keeper that is in a handler since role.
func (s *session) steal(role uint64) bool {
	if !s.role.CompareAndSwap(role, role+roleOne-roleInline+roleReading|roleAway) {
		return false
	}
	s.inline.adopt(s)
	s.standby.activate(s)
	return true
}

// leave gives the reader role up. If handOver is set and a follower waits, it
// becomes the reader; otherwise the link is armed, or will be by the stand-by, and
// the keeper sees to it.
func (s *session) leave(handOver bool) {
	if handOver {
		if s.followers.promote() {
			return
		}
		if s.lazy.Load() {
			s.role.Add(roleLazy - roleReading)
			// Whoever parked, and the stand-by if it ended, before they could
			// see that, are seen here.
			if s.followers.n.Load() == 0 && s.standby.active.Load() || !s.acquire() {
				return
			}
			s.leave(s.followers.n.Load() > 0)
			return
		}
		s.noteDensity()
	}
	s.link.Arm()
	s.role.Add(^(roleReading - roleIdle) + 1)
	// What came before the link was armed has rung no bell, and the keeper may
	// have looked when the role was not free.
	if s.link.Ready() {
		s.link.Wake()
	}
}

// Calls are dense when so many of them end within a time.
const (
	denseCalls = 16
	denseTime  = time.Millisecond
)

// noteDensity starts the stand-by when calls come close upon each other. It is
// called with the reader role.
func (s *session) noteDensity() {
	if s.leaves++; s.leaves%denseCalls != 0 || s.registry.byID.Load() != nil {
		return
	}
	now := time.Now()
	if now.Sub(s.densityFrom) < denseTime {
		s.standby.activate(s)
	}
	s.densityFrom = now
}

// startKeeper starts keeper number id, which begins by reading if it is given
// the role.
func (s *session) startKeeper(id uint64, reading bool) {
	s.handling.Go(func() {
		k := &keeper{id: id}
		if reading && !s.read(k) {
			return
		}
		wanted := s.wanted // made once: a method value is memory
		for !s.ending.Load() {
			s.link.Sleep(wanted)
			if s.role.Load()&roleTaken == 0 && s.acquire() && !s.read(k) {
				return
			}
		}
	})
}

// keeper is what a keeper needs to run handlers itself.
type keeper struct {
	id  uint64
	job job             // of its present run
	ctx *handlerContext // can be used again, or nil

	follows   bool // there is another frame already
	gathering bool // answers may wait
	since     int  // frames since the first of them

	run    uint64        // number of the present run
	role   uint64        // as that began
	copied atomic.Uint64 // the run whose request nobody needs any more

	answering sync.Mutex // guards the following
	answers   *frames    // that wait, or nil

	// Who steals the role during a run takes care of what it holds, unless it
	// has just ended.
	mu      sync.Mutex
	over    bool // the run
	stolen  bool
	release func()
	watch   *leaseWatch
}

// adopt makes the run of a keeper from whom the role was stolen one like those in
// goroutines of their own. The caller has the role.
func (k *keeper) adopt(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		return
	}
	k.stolen = true
	s.active.n.Add(1)
	// Its request may lie where later frames will.
	k.release = s.link.Hold()
	// SYNC: pairs with keeper.read.
	if k.copied.Load() == k.run {
		k.letGo()
	}
	s.handling.Go(func() { s.answerGathered(k.gathered()) }) // which wait for this handler's
	k.watch = s.watchLease(k.job.handler)
	s.running.add(k.job.ctx)
	k.job.handler.wasStolen()
}

// read is called when nobody needs the request of the run any more, in the middle of it.
func (k *keeper) read(s *session) {
	// SYNC: pairs with keeper.adopt, which is called when the role has changed and
	// then loads copied.
	if k.copied.Store(k.run); s.role.Load() != k.role {
		k.mu.Lock()
		k.letGo()
		k.mu.Unlock()
	}
}

// letGo gives the memory of the request back, if it was held.
func (k *keeper) letGo() {
	if k.release != nil {
		k.release()
		k.release = nil
	}
}

// end ends a run.
func (k *keeper) end(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	if !k.stolen {
		return
	}
	k.stolen = false
	k.watch.stop()
	k.letGo()
	s.running.remove(k.job.ctx)
	s.active.n.Add(-1)
}

// runInline runs a handler in the keeper's own goroutine. It returns false if the
// role was stolen meanwhile.
func (s *session) runInline(k *keeper, h *handler, f drivers.Frame) bool {
	j := &k.job
	j.take(s, h, f, k.ctx)
	j.keeper = k
	// What is to be kept if the link ends must not wait.
	k.ctx, k.follows = nil, f.More && (s.afterlife == nil || s.afterlife.limit == 0)
	k.over = false // nobody looks before the role says inline
	s.inline = k
	s.runs++
	timed := s.runs%sampleEvery == 0
	k.run = uint64(s.runs)
	role := s.role.Add(roleOne + roleInline - roleReading)
	k.role = role
	s.standby.activate(s)
	// SYNC: pairs with session.drain.
	if s.active.draining.Load() {
		s.refuse(f, errDraining)
	} else {
		returned := false
		defer func() {
			if !returned { // by runtime.Goexit: the stand-by finds the role abandoned
				k.end(s)
				k.flush(s)
			}
		}()
		s.run(j, timed, k)
		returned = true
	}
	if s.role.CompareAndSwap(role, role+roleReading-roleInline) {
		switch {
		case !h.inPlace: // it was cancelled
		case j.ctx.real.Load() == nil:
			k.ctx = j.ctx // its time is over, by contract
		default:
			j.ctx.cancel()
		}
		j.clear()
		return true
	}
	j.ctx.cancel()
	k.end(s)
	k.flush(s)
	j.clear()
	return false
}

// wanted reports whether the keeper has something to do.
func (s *session) wanted() bool {
	return s.ending.Load() || s.role.Load()&roleTaken == 0 && s.link.Ready()
}

// read is a keeper's reading: until nothing comes for a while. It returns false
// if the keeper was replaced meanwhile.
func (s *session) read(k *keeper) bool {
	for frames := 0; ; frames++ {
		f, ok, err := s.link.Next()
		if err != nil {
			s.lost(err)
			s.leave(false)
			return true
		}
		if frames%64 == 63 && s.over() {
			s.leave(false) // though the peer goes on sending
			return true
		}
		if !ok {
			k.flush(s)
			switch {
			case s.registry.byID.Load() == nil:
				// Only answers come, and who waits for one polls, or has given
				// that up. New callers find the role free.
				s.leave(false)
				return true
			case s.followers.n.Load() > 0:
				s.leave(true)
				return true
			case s.ending.Load() || !s.link.Spin():
				s.leave(false)
				return true
			}
			continue
		}
		if k.since++; k.since > maxSince {
			k.flush(s)
		}
		h := s.receive(f)
		switch {
		case h == nil:
			k.flush(s)
		case !h.quick() || s.active.n.Load() >= maxHandlers:
			k.flush(s)
			s.dispatch(h, f)
		case !s.runInline(k, h, f):
			return s.returned(k.id)
		}
	}
}

// answer sends an answer, or lets it wait for the next one's if there is a next one:
// that will be there soon, for it is a quick handler's. The keeper runs a handler, so
// its role can be stolen should this block.
func (k *keeper) answer(s *session, f drivers.Frame) {
	if !k.follows && !k.gathering {
		s.answer(f) // the usual case, and the quickest
		return
	}
	k.gathering = true
	k.answering.Lock()
	defer k.answering.Unlock()
	if k.answers == nil {
		k.answers = gathers.Get().(*frames)
		s.active.n.Add(1) // until they are sent
	}
	g := k.answers
	if !g.fits(&f) {
		s.answerAll(g)
	}
	if !g.fits(&f) {
		s.answer(f)
		return
	}
	if len(g.list) == 0 {
		k.since = 0
	}
	if g.add(f); !k.follows {
		s.answerAll(g)
	}
}

// maxSince is for how many frames answers wait, though others have none to add: those
// are notifications, say, and may never cease.
const maxSince = 2 * maxFrames

// answerGathered sends what a keeper has gathered.
func (s *session) answerGathered(g *frames) {
	if g != nil {
		s.answerAll(g)
		gathers.Put(g)
		s.active.n.Add(-1)
	}
}

// answerAll sends answers that were gathered.
func (s *session) answerAll(g *frames) {
	n, err := s.link.SendBatch(s.baseCtx, g.list)
	for ; err != nil && n < len(g.list); n++ {
		s.answer(g.list[n]) // which deals with the error
	}
	g.reset()
}

// flush sends the answers that wait, though what came next was not what they waited
// for. The keeper has the role, so that must not block here.
func (k *keeper) flush(s *session) {
	if !k.gathering {
		return
	}
	k.gathering = false
	if g := k.gathered(); g != nil && len(g.list) > 0 {
		s.handling.Go(func() { s.answerGathered(g) })
	} else {
		s.answerGathered(g)
	}
}

// gathered takes the answers that wait. It returns nil if none were gathered.
func (k *keeper) gathered() *frames {
	k.answering.Lock()
	defer k.answering.Unlock()
	g := k.answers
	k.answers = nil
	return g
}

// over reports whether the session has ended, so that nothing that comes matters.
func (s *session) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// returned is called by keeper id when it was robbed of the role. It reports
// whether it still is the keeper.
func (s *session) returned(id uint64) bool {
	for {
		role := s.role.Load()
		if role&roleKeeper != id {
			return false
		}
		if s.role.CompareAndSwap(role, role&^roleAway) {
			return true
		}
	}
}

// tick is how long a handler may keep a keeper before the stand-by takes over.
const tick = 500 * time.Microsecond

// quietTicks is after how many ticks without work the stand-by ends.
const quietTicks = 8

// standby looks, while a link is busy, whether its keeper is stuck in a handler,
// and arms it when it is not busy any more.
type standby struct{ active atomic.Bool }

// activate starts the stand-by if it does not run.
func (b *standby) activate(s *session) {
	if b.active.Load() || !b.active.CompareAndSwap(false, true) {
		return
	}
	s.handling.Go(func() { b.run(s) })
}

func (b *standby) run(s *session) {
	for {
		last, quiet := s.role.Load(), 0
		for quiet < quietTicks && !s.ending.Load() {
			time.Sleep(tick)
			role := s.role.Load()
			switch {
			case role == last && role&roleState == roleInline:
				if s.steal(role) {
					s.replaceKeeper(true)
				}
			case role == last && role&roleState == roleLazy:
				if s.acquire() {
					s.leave(false)
				}
			case role&roleAway != 0 && last&roleAway != 0 && role&roleKeeper == last&roleKeeper:
				s.replaceKeeper(false)
			case role == last:
				quiet++
			default:
				quiet = 0
			}
			// One call takes the role once.
			s.lazy.Store(role/roleOne-last/roleOne >= denseCalls*uint64(tick)/uint64(denseTime) && s.registry.byID.Load() == nil)
			last = role
		}
		s.lazy.Store(false)
		b.active.Store(false)
		// Who found us active just now relies on us.
		role := s.role.Load()
		state := role & roleState
		if s.ending.Load() || state != roleInline && state != roleLazy && role&roleAway == 0 || !b.active.CompareAndSwap(false, true) {
			return
		}
	}
}

// replaceKeeper starts a new keeper if the present one is away. The new one
// reads at once if the caller holds the reader role.
func (s *session) replaceKeeper(reading bool) {
	for {
		role := s.role.Load()
		if role&roleAway == 0 {
			// It is back; if we hold the role it must not be lost.
			if reading {
				s.leave(true)
			}
			return
		}
		next := (role + roleKeeperOne) & roleKeeper
		if s.role.CompareAndSwap(role, role&^(roleKeeper|roleAway)|next) {
			s.startKeeper(next, reading)
			return
		}
	}
}
