package worker

import (
	"fmt"
	"time"
)

// Restart says how a worker is started again that has ended though nobody closed its
// client. The zero value waits for about 100 ms before the first restart and twice as
// long before each further one, up to 10 s. It gives up when there were 10 restarts
// within a minute.
type Restart struct {
	// Delay is the pause before the first restart; 0 means 100 ms. Each later pause
	// is twice as long as the one before. All are varied by up to a quarter, so that
	// workers that died together do not start together. When a process has lived
	// longer than MaxDelay, the pauses begin again with Delay.
	Delay time.Duration
	// MaxDelay bounds the pauses; 0 means 10 s.
	MaxDelay time.Duration
	// MaxRestarts is how many restarts there may be within Interval, failed ones
	// included, before the worker is given up. 0 means 10, and a negative number any.
	MaxRestarts int
	// Interval is the time in which restarts are counted; 0 means a minute.
	Interval time.Duration
}

// WithRestart starts the worker again when its process has ended, with whatever exit code,
// and nobody had closed the client. New calls wait meanwhile, within their contexts and
// timeouts. Calls that were pending when the process ended fail, unless [WithRetry] says
// otherwise.
//
// The first start, by [Spawn], is not tried again, and neither is a start that failed
// with an [*ipc.ChecksumError]. WithRestart panics if a duration is negative.
func WithRestart(r Restart) Option {
	if r.Delay < 0 || r.MaxDelay < 0 || r.Interval < 0 {
		panic(fmt.Sprintf("tandem: Restart{Delay: %v, MaxDelay: %v, Interval: %v} has a negative field", r.Delay, r.MaxDelay, r.Interval))
	}
	return func(s *Settings) { s.Restart = &r }
}
