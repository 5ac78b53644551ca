package worker

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// How long Close waits after a signal, in addition to the grace.
const (
	termDelay = 2 * time.Second
	killDelay = 5 * time.Second
)

// Close ends the worker: it takes no more calls, waits for those that are
// pending, says goodbye so that the worker can finish in order, and if it does
// not end within the grace ([WithGrace]) sends SIGTERM to its process group, and
// two seconds later SIGKILL. Pending calls that outlast the grace fail with
// [ipc.ErrClosed], and so do those that wait for the worker to be started again;
// it is not any more.
//
// The process has been reaped when Close returns, which is at the latest after
// twice the grace and 8 seconds, whatever the worker does: also if it is stopped or
// in an endless loop. Only a process that SIGKILL does not end, since it is stuck in
// the kernel, is left behind with an error.
//
// Close then waits until what the worker has written has come to the writers of its
// command, for half a second at most, or its WaitDelay. After that nothing is written
// to them, unless a Write still blocks.
//
// Close returns an [*ExitError] if the worker had not ended with exit code 0. A code
// that is not known ([ipc.ExitUnknown]) is no error, unless Close had to kill.
// Further calls return the same. A worker that its channel has detached is left
// alone, and Close only frees what the client holds.
func (c *Client[C]) Close() error {
	c.closing.Store(true)
	c.stop()
	return c.close()
}

func (c *Client[C]) shutdown() error {
	c.between.Lock() // from now on no life begins
	l, copies := c.life.Load(), c.copies
	c.between.Unlock()
	killed := false
	if !l.left() {
		killed = l.end(c.opts.timeouts.Grace)
	}
	s := l.session.Load()
	if l.exit() != nil {
		// Its reader delivers what has arrived, and says how the process ended.
		within(s.done, exitDelay, nil)
	}
	s.close(lostGrace)
	err := l.channel.Close()
	if last := l.session.Load(); last != s { // the channel reconnected meanwhile
		last.close(lostGrace)
	}
	copies.await()
	exit := l.exit()
	switch {
	case l.left():
	case exit == nil:
		err = fmt.Errorf("tandem: worker (pid %d) has not ended %v after SIGKILL: is it stuck in the kernel?", l.channel.Process().PID(), killDelay)
	case exit.Code == ipc.ExitUnknown && !killed:
	case exit.Code != 0:
		err = exit
	}
	close(c.freed)
	<-c.watched
	c.events.close(c.opts.timeouts.Grace)
	return err
}

// end ends the process, politely at first. It returns true if it had to kill it.
func (l *life[C]) end(grace time.Duration) (killed bool) {
	p, s := l.channel.Process(), l.session.Load()
	s.calls.drained(grace, p.Done())
	if !s.ending.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), max(grace, time.Millisecond))
		if s.link.Send(ctx, drivers.Frame{Kind: drivers.KindGoodbye}) == nil {
			within(p.Done(), grace, ctx.Done())
		}
		cancel()
	}
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{syscall.SIGTERM, termDelay}, {syscall.SIGKILL, killDelay}} {
		select {
		case <-p.Done():
			return killed
		default:
			killed = step.sig == syscall.SIGKILL
			_ = p.Signal(step.sig) // it can only have ended just now
			within(p.Done(), step.wait, nil)
		}
	}
	return killed
}

// within waits for done or other, for d at most. It returns true if done was
// closed.
func within(done <-chan struct{}, d time.Duration, other <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-other:
	case <-t.C:
	}
	return false
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
