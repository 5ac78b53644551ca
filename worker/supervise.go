package worker

import (
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// supervise follows the worker through its lives.
func (c *Client[C]) supervise() {
	defer close(c.watched)
	for {
		l := c.life.Load()
		l.watch()
		again := c.revive(l)
		close(l.after)
		if !again {
			return
		}
	}
}

// revive starts the worker again after a life has ended, unless that is not
// wanted. It returns true if there is a new life.
func (c *Client[C]) revive(last *life[C]) bool {
	c.between.Lock()
	defer c.between.Unlock()
	if c.restarts == nil || c.closing.Load() || last.left() {
		return false
	}
	// What the last life holds is freed as by Close, which may do it again.
	last.session.Load().close(lostGrace)
	_ = last.channel.Close()

	pid, lived, why := last.channel.Process().PID(), time.Since(last.ready), error(last.exit())
	for {
		delay, ok := c.restarts.next(lived)
		if !ok || inVain(why) {
			r := c.restarts.Restart
			err := fmt.Errorf("%w: given up after %d restarts within %v: %w", ipc.ErrPeerGone, r.MaxRestarts, r.Interval, why)
			if ok {
				err = fmt.Errorf("%w: given up: %w", ipc.ErrPeerGone, why)
			}
			c.gaveUp.Store(&err)
			c.events.add(Event{Kind: EventGaveUp, PID: pid, Attempt: c.starts, Err: why})
			return false
		}
		c.events.add(Event{Kind: EventRestarting, PID: pid, Attempt: c.starts + 1, Err: why, Delay: delay})
		if within(c.ctx.Done(), delay, nil) {
			return false
		}
		next, err := c.begin(c.ctx)
		if err == nil {
			c.life.Store(next)
			next.report(EventReady, nil)
			return true
		}
		if c.closing.Load() {
			return false
		}
		lived, why = 0, err
	}
}
