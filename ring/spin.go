package ring

import (
	"runtime"
	"sync/atomic"
	"time"
)

const (
	spinFree    = 16                    // polls before the clock is read at all
	spinClock   = 64                    // polls between two looks at the clock, about 2 microseconds
	spinYield   = 128                   // polls between two yields to other goroutines
	spinOSYield = 1024                  // polls between two yields to other processes (WaitSpin)
	spinMax     = 50 * time.Microsecond // about what it costs to park and be woken
	spinMin     = 2 * time.Microsecond  // a budget below this is none
	probeBudget = 5 * spinMax           // longer than a peer that must wake first
	probeEvery  = 64                    // parks for less than probeBudget between two probes
	hopeless    = 16                    // parks for longer count as one of them
	trialEvery  = 16                    // parks between two trials, after one has failed
	trialRarely = 4 * trialEvery        // the same, after some in a row have failed

	maxYields    = 32                      // of a wait
	longestTurn  = 16                      // waits between two yields while others yield
	afterCompute = 4096                    // the same, after one that has let others compute
	crowdedWaits = 16                      // that begin with a yield, after one that was ended by a yield
	longYield    = 1500 * time.Nanosecond  // others have run
	longestYield = 1000 * time.Microsecond // if it takes longer they compute
)

// spinner decides how long to spin before parking, from how waits on this ring
// have ended lately:
//
//   - a wait that ended while spinning raises the budget to twice its length;
//   - a wait that parked, but was shorter than spinMax, does the same, on trial;
//   - a wait that parked for longer than spinMax halves the budget, and one that parked
//     during a trial quarters it, down to none.
//
// The trial is for a peer that needs this processor, or that the kernel wakes on it: then
// spinning itself makes the wait long, and a larger budget catches no more than a small
// one. The trial then ends without a budget. It is over when a spin succeeds. Another one
// can begin after trialEvery parks, since the peer may spin again by then, and after twice
// as many each time that it fails.
//
// Two sides without a budget would wake each other late for ever: each would find
// that the other takes too long to spin for. So a spinner without a budget spins
// once in probeEvery such parks, long enough for a peer that must be woken first. The
// peer then sees a quick answer and learns in turn. A wait that is longer than a probe
// would be so with a peer that spins, too, as a rule: it counts for little.
//
// The spinners of a process are limited in number, see slot. One that finds no slot, because
// other rings have spinners, yields instead: as long as others have something to do it
// looks once in each of their turns. So where many rings are busy none of them parks: the
// peers need not ring, and nobody is woken. The holder of a slot does the same when others turn out to
// wait for its processor.
type spinner struct {
	mode    Wait
	polls   uint32 // of the wait that is going on
	gaveUp  bool
	denied  bool          // no slot was free
	shares  bool          // it yields in the place of spinning
	yields  uint8         // of this wait, during which others ran
	learnt  bool          // budget has been initialised
	trial   bool          // budget was raised by a wait that parked
	rest    uint32        // parks until the next trial may begin
	failed  uint32        // parks that there were to be before this trial
	parks   uint32        // since the last probe, times hopeless
	budget  time.Duration // of a wait
	limit   time.Duration // of this wait
	elapsed time.Duration // of this wait, at the last look at the clock
	start   time.Duration // of this wait, on the clock
	slot    slot          // held in this wait, once it is longer than a moment
	crowded uint8         // waits that are to begin with a yield
	turn    int16         // waits since the last yield, during which others yielded
}

// yielding is how many spinners of the process let others run at the moment.
var yielding atomic.Int32

var clockBase = time.Now()

// clock is monotonic.
func clock() time.Duration { return time.Since(clockBase) }

// oneProcessor: spinning cannot help where nobody else can run meanwhile.
var oneProcessor = runtime.NumCPU() == 1

func (s *spinner) setMode(w Wait) {
	if w < WaitAdaptive || w > WaitPark {
		panic("tandem: ring: no such wait strategy")
	}
	s.mode = w
	s.stop() // perhaps in the middle of a wait
}

// begin starts a wait.
func (s *spinner) begin() {
	s.stop()
	s.polls, s.gaveUp, s.denied, s.shares, s.yields = 0, false, false, false, 0
}

// stop is called when the spinner stops polling, for whatever reason.
func (s *spinner) stop() { s.slot.giveBack() }

// again pauses briefly and reports whether to go on spinning.
func (s *spinner) again() bool {
	s.polls++
	if s.polls < spinFree && s.limit != 0 && s.polls > 1 {
		Pause()
		return true
	}
	return s.againSlow()
}

func (s *spinner) againSlow() bool {
	switch s.mode {
	case WaitPark:
		return false
	case WaitSpin:
		s.limit = 1
		if s.polls%spinOSYield == 0 {
			osYield()
		}
		if s.polls%spinYield == 0 {
			runtime.Gosched()
		}
		Pause()
		return true
	}
	if s.gaveUp {
		return false
	}
	if s.polls == 1 {
		if !s.learnt {
			s.learnt, s.budget = true, spinMax
		}
		s.elapsed = 0
		s.limit = s.budget
		if s.limit == 0 && s.parks >= probeEvery*hopeless {
			s.parks, s.limit = 0, probeBudget
		}
		if s.limit == 0 || oneProcessor {
			s.limit = 0
			s.start = clock()
			s.gaveUp = true
			return false
		}
		if (s.crowded > 0 || yielding.Load() > 0) && s.begins() {
			return true
		}
		Pause()
		return true
	}
	if s.shares {
		if s.yields < maxYields && s.yield() {
			return true
		}
		s.shares = false
		return s.goOn()
	}
	switch {
	case s.polls == spinFree:
		s.start = clock()
	case s.polls%spinClock == 0:
		if !s.goOn() {
			return false
		}
		if s.polls%spinYield == 0 && s.yield() {
			s.stop()
		}
	}
	Pause()
	return true
}

// begins is how a wait begins when others yield, or have lately. It reports whether they have run.
func (s *spinner) begins() bool {
	if s.crowded > 0 {
		// Now and then a wait begins as usual, in case that the peer is quick now.
		s.crowded--
	} else if s.turn++; s.turn < longestTurn {
		// One whose peer answers at once need not yield, and would keep its processor until Go
		// takes it away, after 10 ms.
		return false
	}
	s.turn, s.start = 0, clock()
	if s.yield() {
		return true
	}
	if clock()-s.start > longestYield {
		s.turn = -afterCompute
	}
	return false
}

// goOn looks at the clock, and reports whether to spin on.
func (s *spinner) goOn() bool {
	s.elapsed = clock() - s.start
	if s.elapsed >= s.limit {
		s.gaveUp = true
		s.stop()
		return false
	}
	// The first look at the clock is when a wait is longer than a moment.
	if s.slot.at == nil && !s.slot.take(s.start+s.elapsed, s.start+s.limit) {
		s.denied = true
		if s.yields == 0 && s.yield() {
			return true
		}
		s.gaveUp = true
		return false
	}
	return true
}

// yield lets other goroutines run, and reports whether some have that wait, too. Those that compute
// keep the processor for longer, and are no reason to wait in this way.
func (s *spinner) yield() bool {
	before := clock()
	yielding.Add(1)
	runtime.Gosched()
	yielding.Add(-1)
	took := clock() - before
	if took < longYield || took > longestYield {
		return false
	}
	s.shares = true
	s.yields = min(s.yields+1, maxYields)
	return true
}

// end learns from a wait that is over because what was waited for came.
func (s *spinner) end() {
	if s.polls == 0 || s.mode != WaitAdaptive || s.denied || s.yields > 0 {
		switch {
		case s.gaveUp:
			s.crowded = 0
		case s.denied:
			s.crowded = crowdedWaits
		}
		s.begin()
		return
	}
	took := s.elapsed + spinMin/2 // a look at the clock is about that old
	if s.gaveUp {
		took = clock() - s.start
	}
	s.learn(took)
	s.begin()
}

// learn adjusts the budget after a wait that took so long.
func (s *spinner) learn(took time.Duration) {
	switch {
	case took < spinMax && !s.gaveUp:
		s.parks, s.trial, s.failed = 0, false, 0
		s.budget = max(s.budget, min(2*took, spinMax))
	case took < spinMax && !s.trial:
		s.trial = true
		s.budget = max(s.budget, min(2*took, spinMax))
		s.failed = max(trialEvery, min(2*s.failed, trialRarely))
		s.rest = s.failed
	case s.gaveUp:
		switch {
		case took >= probeBudget:
			s.parks++
		case took >= spinMax:
			s.parks += hopeless
		}
		s.budget /= 2
		if s.trial {
			s.budget /= 2
		}
		if s.budget < spinMin {
			s.budget = 0
		}
		if s.trial {
			s.rest--
			s.trial = s.rest > 0
		}
	}
}
