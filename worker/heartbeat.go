package worker

import (
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/wait"
)

// WithHeartbeat ends a worker that hangs. When nothing has come from the worker for
// interval, the client asks it for an answer, and again after each interval. If nothing
// at all comes within timeout, the client kills the worker's process group: calls end
// with an [*ExitError] whose Cause is an [*ipc.TimeoutError], and [WithRestart] applies.
// This happens after two intervals and the timeout at the latest.
//
// The goroutine that reads the worker's link answers, and no handler, so handlers may be
// busy for as long as they like. But the timeout has to be longer than the largest
// message takes to be sent, and than the system may keep the process from running. Time
// in which the host itself did not run does not count. WithHeartbeat panics if a duration
// is not positive.
func WithHeartbeat(interval, timeout time.Duration) Option {
	if interval <= 0 || timeout <= 0 {
		panic(fmt.Sprintf("tandem: heartbeat with an interval of %v and a timeout of %v", interval, timeout))
	}
	return func(s *Settings) { s.heartbeat.interval, s.heartbeat.timeout = interval, timeout }
}

// beat runs the heartbeat of one process, until it ends.
func (i *incarnation[C]) beat() {
	c, p := i.client, i.channel.Process()
	interval, timeout := c.settings.heartbeat.interval, c.settings.heartbeat.timeout
	// silence is how long nothing has come since it was asked for; negative if it
	// was not.
	silence, began := time.Duration(-1), time.Now()
	for {
		pause := interval
		if silence >= 0 {
			pause = min(interval, timeout-silence)
		}
		// Pinging has taken a part of it.
		if wait.Within(p.Done(), pause-time.Since(began), c.released) || wait.Closed(c.released) {
			return
		}
		now := time.Now()
		took := now.Sub(began)
		began = now
		s := i.session.Load()
		switch {
		case !s.Quiet(), s.Failing():
			silence = -1 // it lives, or cannot be asked
			continue
		case silence < 0, took > pause+min(interval, timeout):
			// It is asked for the first time, or we did not run ourselves, and its
			// answer may wait to be read.
			silence = 0
		default:
			silence += pause
		}
		if silence >= timeout {
			why := &ipc.TimeoutError{What: fmt.Sprintf("heartbeat of worker (pid %d)", p.PID()), After: timeout}
			i.kill(why)
			s.Fail(why)
			return
		}
		s.Ping(min(interval, timeout-silence))
	}
}
