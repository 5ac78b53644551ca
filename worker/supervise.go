package worker

import (
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/restart"
	"github.com/tandemipc/tandem/worker/internal/wait"
)

// supervise follows the worker through its incarnations.
func (c *Client[C]) supervise() {
	defer close(c.supervised)
	for {
		i := c.current.Load()
		i.watch()
		again := c.revive(i)
		close(i.after)
		if !again {
			return
		}
	}
}

// revive starts the worker again after an incarnation has ended, unless that is not
// wanted. It returns true if there is a new one.
func (c *Client[C]) revive(last *incarnation[C]) bool {
	c.restartLock.Lock()
	defer c.restartLock.Unlock()
	if c.restarts == nil || c.closing.Load() || last.detached() {
		return false
	}
	// What the last incarnation holds is released as by Close, which may do it again.
	last.session.Load().Close(lostGrace)
	_ = last.channel.Close()

	pid, lived, why := last.channel.Process().PID(), time.Since(last.ready), error(last.exit())
	for {
		delay, ok := c.restarts.Next(lived)
		if !ok || restart.InVain(why) {
			r := c.restarts.Policy
			err := fmt.Errorf("%w: given up after %d restarts within %v: %w", ipc.ErrPeerGone, r.MaxRestarts, r.Interval, why)
			if ok {
				err = fmt.Errorf("%w: given up: %w", ipc.ErrPeerGone, why)
			}
			c.gaveUp.Store(&err)
			c.publish(Event{Kind: EventGaveUp, PID: pid, Attempt: c.starts, Err: why})
			return false
		}
		c.publish(Event{Kind: EventRestarting, PID: pid, Attempt: c.starts + 1, Err: why, Delay: delay})
		if wait.Within(c.ctx.Done(), delay, nil) {
			return false
		}
		next, err := c.start(c.ctx)
		if err == nil {
			c.run(next)
			return true
		}
		if c.closing.Load() {
			return false
		}
		lived, why = 0, err
	}
}
