package worker

import (
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tandemipc/tandem/ipc"
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
// contexts and limits; those that were pending when it ended fail, unless
// [WithRetry] says otherwise. The first start, by [Spawn], is not tried again, and
// neither is one that failed with an [*ipc.ChecksumError]. It panics if a duration
// is negative.
func WithRestart(r Restart) Option {
	if r.Delay < 0 || r.MaxDelay < 0 || r.Interval < 0 {
		panic(fmt.Sprintf("tandem: Restart{Delay: %v, MaxDelay: %v, Interval: %v} has a negative field", r.Delay, r.MaxDelay, r.Interval))
	}
	return func(o *options) { o.restart = &r }
}

const (
	restartDelay    = 100 * time.Millisecond
	restartMaxDelay = 10 * time.Second
	restartMax      = 10
	restartInterval = time.Minute

	restartGrowth = 2
	restartJitter = 0.25
)

// restarts counts the restarts of one worker. It is not safe for concurrent use.
type restarts struct {
	Restart                            // completed
	delays  backoff.ExponentialBackOff // before jitter they never shrink but by Reset
	recent  []time.Time                // restarts within Interval
}

// begin returns a count for a worker that was not restarted yet.
func (r Restart) begin() *restarts {
	for _, d := range []struct {
		field *time.Duration
		zero  time.Duration
	}{{&r.Delay, restartDelay}, {&r.MaxDelay, restartMaxDelay}, {&r.Interval, restartInterval}} {
		if *d.field == 0 {
			*d.field = d.zero
		}
	}
	if r.MaxRestarts == 0 {
		r.MaxRestarts = restartMax
	}
	r.Delay = min(r.Delay, r.MaxDelay)
	return &restarts{Restart: r, delays: backoff.ExponentialBackOff{
		InitialInterval: r.Delay, MaxInterval: r.MaxDelay, Multiplier: restartGrowth, RandomizationFactor: restartJitter,
	}}
}

// inVain reports whether to start a worker again would fail with err again: its
// program is another one by now.
func inVain(err error) bool {
	var other *ipc.ChecksumError
	return errors.As(err, &other)
}

// next counts a restart of a worker that has lived for so long, 0 if it could
// not be started. It returns how long to wait before it, or false if there were
// too many.
func (r *restarts) next(lived time.Duration) (delay time.Duration, ok bool) {
	now := time.Now()
	if r.MaxRestarts > 0 {
		for len(r.recent) > 0 && now.Sub(r.recent[0]) > r.Interval {
			r.recent = r.recent[1:]
		}
		if len(r.recent) >= r.MaxRestarts {
			return 0, false
		}
		r.recent = append(r.recent, now)
	}
	if lived > r.MaxDelay {
		r.delays.Reset()
	}
	return min(r.delays.NextBackOff(), r.MaxDelay), true
}
