package worker

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/wait"
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
	c.restartLock.Lock() // from now on no incarnation begins
	i, copies := c.current.Load(), c.copies
	c.restartLock.Unlock()
	killed := false
	if !i.detached() {
		killed = i.terminate(c.settings.Timeouts.Grace)
	}
	s := i.session.Load()
	if i.exit() != nil {
		// Its reader delivers what has arrived, and says how the process ended.
		wait.Within(s.Done(), drivers.ExitDelay, nil)
	}
	s.Close(lostGrace)
	err := i.channel.Close()
	if last := i.session.Load(); last != s { // the channel reconnected meanwhile
		last.Close(lostGrace)
	}
	copies.await()
	exit := i.exit()
	switch {
	case i.detached():
	case exit == nil:
		err = fmt.Errorf("tandem: worker (pid %d) has not ended %v after SIGKILL: is it stuck in the kernel?", i.channel.Process().PID(), killDelay)
	case exit.Code == ipc.ExitUnknown && !killed:
	case exit.Code != 0:
		err = exit
	}
	close(c.released)
	<-c.supervised
	c.events.Close(c.settings.Timeouts.Grace)
	return err
}

// terminate ends the process, politely at first. It returns true if it had to kill it.
func (i *incarnation[C]) terminate(grace time.Duration) (killed bool) {
	p, s := i.channel.Process(), i.session.Load()
	s.Idle(grace, p.Done())
	if !s.Failing() {
		ctx, cancel := context.WithTimeout(context.Background(), max(grace, time.Millisecond))
		if s.Link().Send(ctx, drivers.Frame{Kind: drivers.KindGoodbye}) == nil {
			wait.Within(p.Done(), grace, ctx.Done())
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
			wait.Within(p.Done(), step.wait, nil)
		}
	}
	return killed
}
