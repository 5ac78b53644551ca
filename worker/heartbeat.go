package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// WithHeartbeat asks a worker for a sign of life when nothing has come from it for
// interval, and again each interval; any message is one. A worker that has given
// none for limit after it was asked is taken for dead: its process group is
// killed, calls end with an [*ExitError] whose Cause is an [*ipc.TimeoutError], and
// [WithRestart] applies. So a worker that hangs is noticed after two intervals and
// the limit at the latest.
//
// The answer comes from the goroutine that reads the worker's link, and not from a
// handler, so a worker may be busy for as long as it likes. But the limit has to
// be longer than the largest message takes to be sent, and than the worker's system
// may keep the process from running. Time in which the host itself did not run is
// not counted. It panics if a duration is not positive.
func WithHeartbeat(interval, limit time.Duration) Option {
	if interval <= 0 || limit <= 0 {
		panic(fmt.Sprintf("tandem: heartbeat with an interval of %v and a limit of %v", interval, limit))
	}
	return func(o *options) { o.heartbeat.interval, o.heartbeat.limit = interval, limit }
}

// beat runs the heartbeat of one process, until it ends.
func (l *life[C]) beat() {
	c, p := l.client, l.channel.Process()
	interval, limit := c.opts.heartbeat.interval, c.opts.heartbeat.limit
	// silence is how long nothing has come since it was asked for; negative if it
	// was not.
	silence, began := time.Duration(-1), time.Now()
	for {
		wait := interval
		if silence >= 0 {
			wait = min(interval, limit-silence)
		}
		// Pinging has taken a part of it.
		if within(p.Done(), wait-time.Since(began), c.freed) || isClosed(c.freed) {
			return
		}
		now := time.Now()
		took := now.Sub(began)
		began = now
		s := l.session.Load()
		switch {
		case !s.quiet.Swap(true), s.ending.Load():
			silence = -1 // it lives, or cannot be asked
			continue
		case silence < 0, took > wait+min(interval, limit):
			// It is asked for the first time, or we did not run ourselves, and its
			// answer may wait to be read.
			silence = 0
		default:
			silence += wait
		}
		if silence >= limit {
			why := &ipc.TimeoutError{What: fmt.Sprintf("heartbeat of worker (pid %d)", p.PID()), After: limit}
			l.kill(why)
			s.lost(why)
			return
		}
		s.ping(min(interval, limit-silence))
	}
}

// ping sends a ping if it can within d. If it cannot, the peer does not read.
func (s *session) ping(d time.Duration) {
	ctx, cancel := context.WithTimeout(s.baseCtx, d)
	defer cancel()
	_ = s.link.Send(ctx, drivers.Frame{Kind: drivers.KindPing})
}

// pong answers a ping. One pong at a time is being sent, however many pings
// come: it answers them all.
func (s *session) pong() {
	if !s.ponging.CompareAndSwap(false, true) {
		return
	}
	// Not here: the reader must not block.
	s.handling.Go(func() {
		defer s.ponging.Store(false)
		_ = s.link.Send(s.baseCtx, drivers.Frame{Kind: drivers.KindPong}) // the reader finds out if the link has ended
	})
}
