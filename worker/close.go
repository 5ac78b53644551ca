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

// Close ends the worker. It refuses further calls, waits for pending ones, and tells the
// worker to finish. If the worker does not end within the grace ([WithGrace]) and half a second,
// in which handlers may end whose contexts have ended with the grace, Close sends
// SIGTERM to its process group, and two seconds later SIGKILL. Pending calls that outlast
// the grace fail with [ipc.ErrClosed], and so do calls that wait for a restart: there are
// no further restarts.
//
// When Close returns, the process has been reaped. That takes twice the grace and 8
// seconds at most, even if the worker is stopped or in an endless loop. Only if SIGKILL
// does not end the process, because it is stuck in the kernel, Close leaves it behind and
// returns an error.
//
// Close then waits until the writers of the worker's command have what the worker wrote,
// for half a second at most, or for the command's WaitDelay. After that nothing writes to
// them, unless a Write still blocks.
//
// Close returns an [*ExitError] if the worker ended with another exit code than 0. If the
// code is not known ([ipc.ExitUnknown]), that is an error only if Close had to kill the
// process. Further calls return the same. If the channel has detached the worker, Close
// leaves it alone and only frees what the client holds.
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
	if c.settings.Memory == nil {
		c.memory.Close()
	}
	close(c.released)
	<-c.supervised
	c.events.Close(c.settings.Timeouts.Grace)
	return err
}

// terminate ends the process, politely at first. It returns true if it had to kill it.
func (i *incarnation[C]) terminate(grace time.Duration) (killed bool) {
	p, s := i.channel.Process(), i.session.Load()
	if !s.Idle(grace, p.Done()) && !wait.Closed(p.Done()) {
		s.FailCalls(ipc.ErrClosed) // before the worker, which ends its handlers, can say how they failed
	}
	s.EndLasting(ipc.ErrClosed)
	if !s.Failing() {
		until := time.Now().Add(grace).Add(lostGrace)
		ctx, cancel := wait.Timeout(context.Background(), max(grace, time.Millisecond), nil)
		err := s.Link().Send(ctx, &drivers.Frame{Kind: drivers.KindGoodbye})
		cancel()
		if err == nil {
			wait.Within(p.Done(), time.Until(until), nil)
		}
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
