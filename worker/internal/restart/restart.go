// Package restart counts the restarts of a worker, and says when the next one is due.
package restart

import (
	"errors"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Policy says how a worker is started again. The fields are those of worker.Restart,
// and 0 stands for the same defaults.
type Policy struct {
	Delay       time.Duration
	MaxDelay    time.Duration
	MaxRestarts int
	Interval    time.Duration
}

const (
	defaultDelay       = 100 * time.Millisecond
	defaultMaxDelay    = 10 * time.Second
	defaultMaxRestarts = 10
	defaultInterval    = time.Minute
)

// Counter counts the restarts of one worker. It is not safe for concurrent use.
type Counter struct {
	Policy // completed
	delays *drivers.Backoff
	recent []time.Time // restarts within Interval
}

// NewCounter returns a count for a worker that was not restarted yet.
func NewCounter(p Policy) *Counter {
	for _, d := range []struct {
		field *time.Duration
		zero  time.Duration
	}{{&p.Delay, defaultDelay}, {&p.MaxDelay, defaultMaxDelay}, {&p.Interval, defaultInterval}} {
		if *d.field == 0 {
			*d.field = d.zero
		}
	}
	if p.MaxRestarts == 0 {
		p.MaxRestarts = defaultMaxRestarts
	}
	return &Counter{Policy: p, delays: drivers.NewBackoff(p.Delay, p.MaxDelay)}
}

// InVain reports whether to start a worker again would fail with err again: its program
// is another one by now.
func InVain(err error) bool {
	var other *ipc.ChecksumError
	return errors.As(err, &other)
}

// Next counts a restart of a worker that has lived for so long, 0 if it could not be
// started. It returns how long to wait before the restart, or false if there were too
// many.
func (c *Counter) Next(lived time.Duration) (pause time.Duration, ok bool) {
	now := time.Now()
	if c.MaxRestarts > 0 {
		for len(c.recent) > 0 && now.Sub(c.recent[0]) > c.Interval {
			c.recent = c.recent[1:]
		}
		if len(c.recent) >= c.MaxRestarts {
			return 0, false
		}
		c.recent = append(c.recent, now)
	}
	if lived > c.MaxDelay {
		c.delays.Reset()
	}
	return c.delays.Next(), true
}
