package ring

// Wait says how to wait for the peer: spin, park, or spin first and park then.
type Wait int

const (
	// WaitAdaptive spins for as long as spinning has lately paid off on this
	// ring, at most about 50 microseconds, then parks. It is the default.
	WaitAdaptive Wait = iota
	// WaitSpin never parks. It costs a processor, and yields regularly both
	// to other goroutines and to other processes.
	WaitSpin
	// WaitPark parks at once: the least processor time, the most latency.
	WaitPark
)

// String returns "adaptive", "spin" or "park".
func (w Wait) String() string {
	switch w {
	case WaitAdaptive:
		return "adaptive"
	case WaitSpin:
		return "spin"
	case WaitPark:
		return "park"
	}
	return "invalid"
}

// Sleeping and ringing, for data and for space alike:
//
//	waiter X                                waker Y
//	b := load Y.bell                        publish
//	store X.waiting = parked, new epoch     w := load X.waiting
//	look again                              if parked and not rung for w yet:
//	FUTEX_WAIT(Y.bell, b)                       Y.bell++; FUTEX_WAKE(Y.bell)
//	store X.waiting = none
//
// All of these are sequentially consistent, so either X's second look sees what
// Y published, or Y's load sees that X is parked. In the latter case the bell
// changes before the wake, so X's FUTEX_WAIT either has begun, and is woken, or
// finds that the bell is no longer b, and does not begin.
//
// The bell has to be loaded first. Between Y's publishing and its load of
// X.waiting X may have read the record and armed again: then Y rings for what
// was read, and will not ring for this arming another time. With b loaded before,
// FUTEX_WAIT does not begin, and X arms anew. That is why Consumer.Arm keeps the
// bell's value for Consumer.Sleep, which may run in another goroutine.
//
// Local goroutines end a sleep by another way, since X cannot write Y.bell: they
// set a flag that the sleeper looks at last, and wake the word's sleepers until
// this one says that it is out. The wake can come between the look and the
// sleep and hit nobody; then the next one hits.
