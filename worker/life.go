package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// life is one process of a client's worker.
//
//	begin ---> ready ---> ended ---> the next life, or none
//	           |   ^      (watch)    (revive)
//	           v   |
//	        disconnected
type life[C drivers.Channel] struct {
	client  *Client[C]
	channel C
	number  int // 1 is the first
	ready   time.Time
	session atomic.Pointer[session]
	cause   atomic.Pointer[error] // why we killed the process
	after   chan struct{}         // closed when the next life is ready, or there will be none

	mu       sync.Mutex
	reported *session // whose end was reported as a disconnection
	// forgotten calls are those whose answers nobody waits for; see resume.go.
	forgotten []callKey
}

// begin starts a process and returns when it is ready. It is called by Spawn,
// and then with between held.
func (c *Client[C]) begin(ctx context.Context) (*life[C], error) {
	c.starts++
	number, pid := c.starts, 0
	if limit := c.opts.timeouts.Start; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, &ipc.TimeoutError{What: "the start of worker " + c.cmd.Path, After: limit})
		defer cancel()
	}
	channel, err := c.driver.Spawn(ctx, &drivers.Command{
		Cmd: cloneCmd(c.cmd),
		Startup: drivers.StartupData{
			Protocol: drivers.ProtocolVersion,
			Driver:   c.driver.Name(), Import: importPath(c.driver),
			Codec: c.opts.codec.Name(), HostPID: os.Getpid(), Timeouts: c.opts.timeouts, MaxMessage: c.opts.maxMessage,
			UserData: c.data, Resume: c.opts.resume,
		},
		Resources: c.opts.resources, Checksum: c.opts.checksum, Output: c.opts.output, Logger: c.opts.log,
		Started: func(started int) {
			pid = started
			c.events.add(Event{Kind: EventStarted, PID: pid, Attempt: number})
		},
	})
	if err != nil {
		c.events.add(Event{Kind: EventExited, PID: pid, Attempt: number, Err: err})
		return nil, err
	}
	return c.adopt(channel), nil
}

// adopt returns the life of a process that is ready.
func (c *Client[C]) adopt(channel C) *life[C] {
	l := &life[C]{client: c, channel: channel, number: c.starts, ready: time.Now(), after: make(chan struct{})}
	channel.Links(l.linked)
	return l
}

// live makes l the first life.
func (c *Client[C]) live(l *life[C]) {
	c.life.Store(l)
	l.report(EventReady, nil)
	go c.supervise()
}

func (l *life[C]) report(kind EventKind, err error) {
	l.client.events.add(Event{Kind: kind, PID: l.channel.Process().PID(), Attempt: l.number, Err: err})
}

// linked takes a link of the process, the first or a later one.
func (l *life[C]) linked(link drivers.Link) {
	c := l.client
	number := l.numbered(link)
	next := newSession(link, 0, c.opts.codec, c.opts.timeouts, c.handlers(), c.opts.log, l.explain)
	if number > 0 {
		next.number, next.resumer = number, l
	}
	next.latest = l.latest
	next.open()
	old := l.session.Swap(next)
	l.remind(next)
	if old == nil {
		return
	}
	l.disconnected(old, ipc.ErrDisconnected) // if nobody has seen it yet
	l.report(EventReconnected, nil)
	close(old.replaced)
	go func() {
		within(old.done, exitDelay, nil) // its reader delivers what has arrived
		old.lost(ipc.ErrDisconnected)
		old.close(0) // when its handlers have ended
	}()
}

// disconnected reports, once, that s has ended and the process lives.
func (l *life[C]) disconnected(s *session, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reported != s && (!l.client.closing.Load() || l.left()) {
		l.reported = s
		l.report(EventDisconnected, err)
	}
}

// exitDelay is how long a process may outlive its end of the link.
const exitDelay = 3 * time.Second

// explain says why the session s has ended, which its link says is err, and
// sees to it that a process that cannot be reached any more ends.
func (l *life[C]) explain(s *session, err error) error {
	c, p := l.client, l.channel.Process()
	if errors.Is(err, ipc.ErrDisconnected) || errors.Is(err, ipc.ErrClosed) {
		l.disconnected(s, err)
		return err // we have done it
	}
	if errors.Is(err, ipc.ErrPeerGone) {
		// Sockets end a moment before their process, and a worker that has said
		// goodbye is about to tidy up.
		delay := exitDelay
		if isClosed(s.goodbye) {
			delay = max(delay, c.opts.timeouts.Grace)
		}
		within(p.Done(), delay, s.replaced)
	}
	if p.Exit() == nil && !isClosed(s.replaced) && !c.closing.Load() && (l.cause.Load() != nil || c.restarts != nil || !c.caps.Reconnect) {
		l.kill(err)
		within(p.Done(), killDelay, nil)
	}
	exit := l.exit()
	switch {
	case exit != nil && c.closing.Load():
		return fmt.Errorf("%w: %w", ipc.ErrClosed, exit)
	case exit != nil:
		return exit
	case errors.Is(err, ipc.ErrPeerGone) && isClosed(s.replaced):
		err = fmt.Errorf("%w: worker (pid %d) has closed its link, and there is another now: %w", ipc.ErrDisconnected, p.PID(), err)
	case errors.Is(err, ipc.ErrPeerGone):
		err = fmt.Errorf("worker (pid %d) has closed its link, and runs: %w", p.PID(), err)
	}
	l.disconnected(s, err)
	return err
}

// latest is what a call gets that comes after its session has ended with err: if the
// process ran on at the time, it may have ended since.
func (l *life[C]) latest(err error) error {
	exit := l.exit()
	lost := errors.Is(err, ipc.ErrDisconnected) || errors.Is(err, ipc.ErrPeerGone)
	if exit == nil || l.left() || !lost || errors.Is(err, ipc.ErrClosed) {
		return err
	}
	return exit
}

// kill ends the process group at once.
func (l *life[C]) kill(why error) {
	l.cause.CompareAndSwap(nil, &why)
	_ = l.channel.Process().Signal(syscall.SIGKILL) // it can only have ended just now
}

// exit says how the process ended, and why if we killed it; nil while it runs.
func (l *life[C]) exit() *ipc.ExitError {
	exit, cause := l.channel.Process().Exit(), l.cause.Load()
	if exit == nil || cause == nil {
		return exit
	}
	killed := *exit
	killed.Cause = *cause
	return &killed
}

// left reports whether the host has left the process to itself.
func (l *life[C]) left() bool {
	channel, ok := any(l.channel).(drivers.Detachable)
	return ok && channel.Detached()
}

// watch returns when the process and its session have ended, or the client has
// let go of it.
func (l *life[C]) watch() {
	c, p := l.client, l.channel.Process()
	if c.opts.heartbeat.interval > 0 {
		var beating sync.WaitGroup
		beating.Go(l.beat)
		defer beating.Wait()
	}
	select {
	case <-p.Done():
	case <-c.freed:
		if l.left() || p.Exit() == nil {
			return
		}
	}
	l.report(EventExited, l.exit())
	s := l.session.Load()
	if !within(s.done, exitDelay, nil) {
		// The end of the link was not seen: a descendant may hold it open.
		s.lost(p.Exit())
		<-s.done
	}
}
