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
	"github.com/tandemipc/tandem/worker/internal/command"
	"github.com/tandemipc/tandem/worker/internal/engine"
	"github.com/tandemipc/tandem/worker/internal/wait"
)

// incarnation is one process of a client's worker.
//
//	start ---> ready ---> exited ---> the next incarnation, or none
//	           |   ^      (watch)     (revive)
//	           v   |
//	        disconnected
type incarnation[C drivers.Channel] struct {
	client  *Client[C]
	channel C
	number  int // 1 is the first
	ready   time.Time
	*life
	cause atomic.Pointer[error] // why we killed the process

	mu        sync.Mutex
	announced bool    // EventReady was published
	early     []Event // what has happened before
	exited    bool    // EventExited was reported
	// reported has the sessions whose ends were reported as disconnections, until they
	// are closed.
	reported map[*engine.Session]bool
	// forgotten calls are those whose answers nobody waits for; see resume.go.
	forgotten []engine.CallKey
}

// start starts a process and returns when it is ready. It is called by Spawn, and
// then with restartLock held.
func (c *Client[C]) start(ctx context.Context) (*incarnation[C], error) {
	c.starts++
	number, pid := c.starts, 0
	if timeout := c.settings.Timeouts.Start; timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = wait.Timeout(ctx, timeout, &ipc.TimeoutError{What: "the start of worker " + c.cmd.Path, After: timeout})
		defer cancel()
	}
	channel, err := c.driver.Spawn(ctx, &drivers.Command{
		Cmd: command.Clone(c.cmd),
		Startup: drivers.StartupData{
			Protocol: drivers.ProtocolVersion,
			Driver:   c.driver.Name(), Import: importPath(c.driver),
			Codec: c.settings.Codec.Name(), HostPID: os.Getpid(), Timeouts: c.settings.Timeouts, MaxMessage: c.settings.maxMessage, Window: c.settings.window, StreamWindow: c.settings.streamWindow,
			UserData: c.data, Resume: c.settings.resume, Depth: depth() + 1,
		},
		Hint:      hint(c.cmd, c.driver),
		Resources: c.settings.resources, Checksum: c.settings.checksum, Output: c.settings.output, Logger: c.settings.Logger,
		Started: func(started int) {
			pid = started
			c.publish(Event{Kind: EventStarted, PID: pid, Attempt: number})
		},
	})
	if err != nil {
		c.publish(Event{Kind: EventExited, PID: pid, Attempt: number, Err: err})
		return nil, err
	}
	return c.newIncarnation(channel), nil
}

// publish tells the receiver of events, if there is one.
func (c *Client[C]) publish(e Event) {
	e.Time = time.Now()
	c.events.Push(e)
}

// newIncarnation returns the incarnation of a process that is ready.
func (c *Client[C]) newIncarnation(channel C) *incarnation[C] {
	i := &incarnation[C]{client: c, channel: channel, number: c.starts, ready: time.Now(), life: &life{after: make(chan struct{})}}
	c.copies.follow(channel.Process())
	channel.Links(i.linked)
	return i
}

// run makes i the present incarnation, and announces it.
func (c *Client[C]) run(i *incarnation[C]) {
	c.current.Store(i)
	c.now.Store(i.life)
	i.mu.Lock()
	defer i.mu.Unlock()
	c.publish(i.event(EventReady, nil))
	i.announced = true
	for _, e := range i.early {
		c.publish(e)
	}
	i.early = nil
}

func (i *incarnation[C]) event(kind EventKind, err error) Event {
	return Event{Kind: kind, PID: i.channel.Process().PID(), Attempt: i.number, Err: err}
}

// report publishes an event, after EventReady and not after EventExited. i.mu is held.
func (i *incarnation[C]) report(kind EventKind, err error) {
	if i.exited {
		return // its links may end, or come, later than the process is reaped
	}
	i.exited = kind == EventExited
	if e := i.event(kind, err); i.announced {
		i.client.publish(e)
	} else {
		i.early = append(i.early, e)
	}
}

// linked takes a link of the process, the first or a later one.
func (i *incarnation[C]) linked(link drivers.Link) {
	c := i.client
	config := engine.Config{
		Link: link, Side: engine.Host, Codec: c.settings.Codec, Timeout: c.settings.Timeouts.Call, AgreedTimeout: c.settings.agreedTimeout,
		MaxMessage: c.settings.maxMessage, Window: c.settings.window, StreamWindow: c.settings.streamWindow, Handlers: c.handlers(), Chain: c.chain, Log: c.settings.Logger, Explain: i.explain, Latest: i.latest,
		Arena: c.memory.Arena, Forgotten: &c.memory.Forgotten,
	}
	if c.settings.resume > 0 {
		config.Number, config.Resumer = engine.NumberLink(c.ctx, link), i
	}
	next := engine.New(config)
	i.mu.Lock() // so that the end of next is reported later than next
	next.Open()
	old := i.session.Swap(next)
	if old != nil {
		i.reportEnd(old, ipc.ErrDisconnected) // if nobody has seen it yet
		i.report(EventReconnected, nil)
	}
	i.mu.Unlock()
	i.sendForgotten(next)
	if old == nil {
		return
	}
	old.Replace()
	go func() {
		wait.Within(old.Done(), drivers.ExitDelay, nil) // its reader delivers what has arrived
		old.Fail(ipc.ErrDisconnected)
		old.Close(0) // when its handlers have ended
		i.mu.Lock()
		delete(i.reported, old)
		i.mu.Unlock()
	}()
}

// disconnected reports, once, that s has ended and the process lives.
func (i *incarnation[C]) disconnected(s *engine.Session, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.reportEnd(s, err)
}

// reportEnd is disconnected for those who hold i.mu.
func (i *incarnation[C]) reportEnd(s *engine.Session, err error) {
	if i.reported[s] || i.client.closing.Load() && !i.detached() {
		return
	}
	if i.reported == nil {
		i.reported = make(map[*engine.Session]bool)
	}
	i.reported[s] = true
	i.report(EventDisconnected, err)
}

// explain says why the session s has ended, which its link says is err, and
// sees to it that a process that cannot be reached any more ends.
func (i *incarnation[C]) explain(s *engine.Session, err error) error {
	c, p := i.client, i.channel.Process()
	if errors.Is(err, ipc.ErrDisconnected) || errors.Is(err, ipc.ErrClosed) {
		i.disconnected(s, err)
		return err // we have done it
	}
	if errors.Is(err, ipc.ErrPeerGone) {
		// Sockets end a moment before their process, and a worker that has said
		// goodbye is about to tidy up.
		delay := drivers.ExitDelay
		if wait.Closed(s.Goodbye()) {
			delay = max(delay, c.settings.Timeouts.Grace)
		}
		wait.Within(p.Done(), delay, s.Replaced())
	}
	if p.Exit() == nil && !wait.Closed(s.Replaced()) && !c.closing.Load() && (i.cause.Load() != nil || c.restarts != nil || !c.caps.Reconnect) {
		i.kill(err)
		wait.Within(p.Done(), killDelay, nil)
	}
	exit := i.exit()
	switch {
	case exit != nil && c.closing.Load():
		return fmt.Errorf("%w: %w", ipc.ErrClosed, exit)
	case exit != nil:
		return exit
	case errors.Is(err, ipc.ErrPeerGone) && wait.Closed(s.Replaced()):
		err = fmt.Errorf("%w: worker (pid %d) has closed its link, and there is another now: %w", ipc.ErrDisconnected, p.PID(), err)
	case errors.Is(err, ipc.ErrPeerGone):
		err = fmt.Errorf("worker (pid %d) has closed its link, and runs: %w", p.PID(), err)
	}
	i.disconnected(s, err)
	return err
}

// latest is what a call gets that comes after its session has ended with err: if the
// process ran on at the time, it may have ended since.
func (i *incarnation[C]) latest(err error) error {
	exit := i.exit()
	lost := errors.Is(err, ipc.ErrDisconnected) || errors.Is(err, ipc.ErrPeerGone)
	if exit == nil || i.detached() || !lost || errors.Is(err, ipc.ErrClosed) {
		return err
	}
	return exit
}

// kill ends the process group at once.
func (i *incarnation[C]) kill(why error) {
	i.cause.CompareAndSwap(nil, &why)
	_ = i.channel.Process().Signal(syscall.SIGKILL) // it can only have ended just now
}

// exit says how the process ended, and why if we killed it; nil while it runs.
func (i *incarnation[C]) exit() *ipc.ExitError {
	exit, cause := i.channel.Process().Exit(), i.cause.Load()
	if exit == nil || cause == nil {
		return exit
	}
	killed := *exit
	killed.Cause = *cause
	return &killed
}

// detached reports whether the host has left the process to itself.
func (i *incarnation[C]) detached() bool {
	channel, ok := any(i.channel).(drivers.Detachable)
	return ok && channel.Detached()
}

// watch returns when the process and its session have ended, or the client has
// let go of it.
func (i *incarnation[C]) watch() {
	c, p := i.client, i.channel.Process()
	if c.settings.heartbeat.interval > 0 {
		var beating sync.WaitGroup
		beating.Go(i.beat)
		defer beating.Wait()
	}
	select {
	case <-p.Done():
	case <-c.released:
		if i.detached() || p.Exit() == nil {
			return
		}
	}
	i.mu.Lock()
	i.report(EventExited, i.exit())
	i.mu.Unlock()
	s := i.session.Load()
	if !wait.Within(s.Done(), drivers.ExitDelay, nil) {
		// The end of the link was not seen: a descendant may hold it open.
		s.Fail(p.Exit())
		<-s.Done()
	}
}
