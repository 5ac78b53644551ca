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
	h := silence{interval: c.settings.heartbeat.interval, timeout: c.settings.heartbeat.timeout, lasted: -1}
	for began := time.Now(); ; {
		// Pinging has taken a part of it.
		if wait.Within(p.Done(), h.pause()-time.Since(began), c.released) || wait.Closed(c.released) {
			return
		}
		now := time.Now()
		took := now.Sub(began)
		began = now
		s := i.session.Load()
		if !s.Quiet() || s.Failing() { // it lives, or cannot be asked
			h.lasted = -1
			continue
		}
		if h.goesOn(took) {
			why := &ipc.TimeoutError{What: fmt.Sprintf("heartbeat of worker (pid %d)", p.PID()), After: h.timeout}
			i.kill(why)
			s.Fail(why)
			return
		}
		s.Ping(h.pause())
	}
}

// silence is that of a worker.
type silence struct {
	interval, timeout time.Duration
	lasted            time.Duration // since the worker was asked to say something; negative if it was not
}

// pause is how long it takes until somebody looks whether it has said something.
func (s *silence) pause() time.Duration {
	if s.lasted < 0 {
		return s.interval
	}
	return min(s.interval, s.timeout-s.lasted)
}

// goesOn takes that the worker has said nothing in another pause, which took so long, and reports whether it is dead. Where a pause took longer than
// it should, the host did not run for a part of it. That part does not count, and the worker is not dead yet, since its answer may wait to be
// read.
func (s *silence) goesOn(took time.Duration) bool {
	pause, round := s.pause(), min(s.interval, s.timeout)
	switch {
	case s.lasted < 0:
		s.lasted = 0
	case took > pause+round:
		s.lasted = min(s.lasted+pause, s.timeout-round)
	default:
		s.lasted += pause
	}
	return s.lasted >= s.timeout
}
