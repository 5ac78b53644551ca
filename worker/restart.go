package worker

import (
	"fmt"
	"time"
)

// Restart says how a worker that has ended unasked is started again. The zero
// value waits for about 100 ms before the first restart, twice as long before
// each further one up to 10 s, and gives up when there were 10 restarts within a
// minute.
type Restart struct {
	// Delay is the pause before the first restart; 0 means 100 ms. Each later
	// one is twice as long, and each is varied by up to a quarter, so that
	// workers that died together do not start together. The first pause comes
	// again after a life that was longer than MaxDelay.
	Delay time.Duration
	// MaxDelay bounds the pauses; 0 means 10 s.
	MaxDelay time.Duration
	// MaxRestarts bounds the restarts within Interval, failed ones included;
	// beyond it the worker is given up. 0 means 10, and less than 0 no bound.
	MaxRestarts int
	// Interval is the time in which restarts are counted; 0 means a minute.
	Interval time.Duration
}

// WithRestart starts a worker again when its process has ended and nobody had
// closed the client, whatever its exit code. Meanwhile calls wait, within their
// contexts and timeouts; those that were pending when it ended fail, unless
// [WithRetry] says otherwise. The first start, by [Spawn], is not tried again, and
// neither is one that failed with an [*ipc.ChecksumError]. It panics if a duration
// is negative.
func WithRestart(r Restart) Option {
	if r.Delay < 0 || r.MaxDelay < 0 || r.Interval < 0 {
		panic(fmt.Sprintf("tandem: Restart{Delay: %v, MaxDelay: %v, Interval: %v} has a negative field", r.Delay, r.MaxDelay, r.Interval))
	}
	return func(s *Settings) { s.Restart = &r }
}
