package wait

import "time"

// What this file has is for tests of the packages that wait.

const (
	// SpinMax is the largest budget of a spinner.
	SpinMax = spinMax
	// ProbeBudget is that of a probe, the longest that there is.
	ProbeBudget = probeBudget
)

// SlotsTaken counts the spinners of the process that hold a slot.
func SlotsTaken() (n int) {
	now := int64(clock())
	for i := range spinSlots {
		if spinSlots[i].Load() > now {
			n++
		}
	}
	return n
}

// ResetSlots makes the slots as they are at the start of a process.
func ResetSlots() {
	for i := range spinSlots {
		spinSlots[i].Store(0)
	}
	usableSlots.Store(0)
}

// SetBudget makes the spinner believe that it has learnt this budget.
func (s *Spinner) SetBudget(d time.Duration) { s.learnt, s.budget = true, d }

// SetLimit makes this the limit of the wait that is going on.
func (s *Spinner) SetLimit(d time.Duration) { s.limit = d }

// Asleep reports whether somebody sleeps, or is about to.
func (s *Sleeper) Asleep() bool { return s.asleep.Load() }
