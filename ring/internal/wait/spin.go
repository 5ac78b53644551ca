package wait

import (
	"runtime"
	"time"
)

const (
	spinFree    = 16                    // polls before the clock is read at all
	spinClock   = 64                    // polls between two looks at the clock, about 2 microseconds
	spinYield   = 128                   // polls between two yields to other goroutines
	spinOSYield = 1024                  // polls between two yields to other processes (Spin)
	spinMax     = 50 * time.Microsecond // about what it costs to park and be woken
	spinMin     = 2 * time.Microsecond  // a budget below this is none
	probeBudget = 5 * spinMax           // longer than a peer that must wake first
	probeEvery  = 64                    // parks for less than probeBudget between two probes
	hopeless    = 16                    // parks for longer count as one of them
	trialEvery  = 16                    // parks between two trials, after one has failed
	trialRarely = 4 * trialEvery        // the same, after some in a row have failed
)

// A Spinner decides how long to spin before parking, from how waits on this ring
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
// The spinners of a process are limited in number, see slot.
type Spinner struct {
	mode    Mode
	polls   uint32 // of the wait that is going on
	gaveUp  bool
	denied  bool          // no slot was free
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
}

var clockBase = time.Now()

// clock is monotonic.
func clock() time.Duration { return time.Since(clockBase) }

// oneProcessor: spinning cannot help where nobody else can run meanwhile.
var oneProcessor = runtime.NumCPU() == 1

func (s *Spinner) SetMode(w Mode) {
	if w < Adaptive || w > Park {
		panic("tandem: ring: no such wait strategy")
	}
	s.mode = w
	s.Stop() // perhaps in the middle of a wait
}

// Begin starts a wait.
func (s *Spinner) Begin() {
	s.Stop()
	s.polls, s.gaveUp, s.denied = 0, false, false
}

// Stop is called when the spinner stops polling, for whatever reason.
func (s *Spinner) Stop() { s.slot.giveBack() }

// Again pauses briefly and reports whether to go on spinning.
func (s *Spinner) Again() bool {
	s.polls++
	if s.polls < spinFree && s.limit != 0 && s.polls > 1 {
		Pause()
		return true
	}
	return s.againSlow()
}

func (s *Spinner) againSlow() bool {
	switch s.mode {
	case Park:
		return false
	case Spin:
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
		Pause()
		return true
	}
	switch {
	case s.polls == spinFree:
		s.start = clock()
	case s.polls%spinClock == 0:
		s.elapsed = clock() - s.start
		if s.elapsed >= s.limit {
			s.gaveUp = true
			s.Stop()
			return false
		}
		// The first look at the clock is when a wait is longer than a moment.
		if s.slot.at == nil && !s.slot.take(s.start+s.elapsed, s.start+s.limit) {
			s.denied, s.gaveUp = true, true
			return false
		}
		if s.polls%spinYield == 0 {
			runtime.Gosched()
		}
	}
	Pause()
	return true
}

// End learns from a wait that is over because what was waited for came.
func (s *Spinner) End() {
	if s.polls == 0 || s.mode != Adaptive || s.denied {
		s.Begin()
		return
	}
	took := s.elapsed + spinMin/2 // a look at the clock is about that old
	if s.gaveUp {
		took = clock() - s.start
	}
	s.learn(took)
	s.Begin()
}

// learn adjusts the budget after a wait that took so long.
func (s *Spinner) learn(took time.Duration) {
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

// GaveUp reports whether the wait that is going on has found that it is time to park.
func (s *Spinner) GaveUp() bool { return s.gaveUp }

// Holds reports whether the spinner holds one of the places that a process has for those that
// spin for longer than a moment. Stop gives it back.
func (s *Spinner) Holds() bool { return s.slot.at != nil }
