package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
	"github.com/tandemipc/tandem/worker/internal/queue"
	"github.com/tandemipc/tandem/worker/internal/wait"
)

// ServiceClient is a client of a service: of a process that this one has not started, which
// serves a listener ([Server.ServeListener]). It is an [ipc.Caller], takes handlers for the
// service's own calls ([Handle]), and is safe for concurrent use. There is no process to manage:
// Close ends the link and leaves the service alone.
type ServiceClient struct {
	caller

	name   string
	driver drivers.Dialer
	events *queue.Queue[Event] // nil if nobody wants them
	life   *life               // the only one
	close  func() error        // once

	attempts  int              // to connect, since the last link began; the supervisor's
	pid       int              // of the last service; the supervisor's
	pauses    *drivers.Backoff // since a link has lived for long; the supervisor's
	farewells int              // links since then that the service has asked us to leave; the supervisor's

	supervised chan struct{}  // closed when supervise has ended
	leaving    sync.WaitGroup // links that are being closed
}

// Dial connects to the service that listens under a name, by a driver: shm.Driver{} or
// socket.Driver{}, the one by which the service listens. A name with a slash is the path of a
// Unix socket, one that begins with @ an abstract one of Linux, and any other the name of a
// socket in the directory of services: see [Services].
//
// The service has to run as the same user, unless [WithPeerCheck] says otherwise. ctx and
// [WithStartTimeout] bound Dial, but not the life of the client. If nobody listens, the error is an
// [*ipc.Error] of CodeUnavailable, at once, unless [WithReconnect] says to wait. It is an
// [*ipc.RefusedError] if the service does not take this client, or does not agree with it (then its
// code is CodeFailedPrecondition), an [*ipc.MismatchError] if the client finds the latter, and
// wraps [ipc.ErrExhausted] if a side is short of a resource.
//
// Options for starting a process, such as [WithRestart], are errors. [WithRetry] implies
// [WithReconnect]. The default timeout of calls ([WithCallTimeout]) holds for the calls of both sides.
//
// The client has to be closed.
func Dial(ctx context.Context, name string, driver drivers.Dialer, opts ...Option) (*ServiceClient, error) {
	if ctx == nil {
		panic("tandem: Dial with a nil context")
	}
	if driver == nil {
		return nil, errors.New("tandem: Dial with a nil driver: use shm.Driver{} or socket.Driver{}")
	}
	s := Resolve(opts...)
	if err := s.checkService("dial"); err != nil {
		return nil, err
	}
	if s.Attempts > 0 && s.reconnect == nil {
		s.reconnect = new(Reconnect)
	}
	c := &ServiceClient{name: name, driver: driver, life: &life{after: make(chan struct{})}, supervised: make(chan struct{})}
	c.caller.init(s)
	c.persists = s.reconnect != nil
	c.close = sync.OnceValue(c.shutdown)
	if s.Events != nil {
		c.events = newEvents(s.Events)
	}
	c.now.Store(c.life)
	if err := c.dialFirst(ctx); err != nil {
		c.stop()
		c.events.Close(s.Timeouts.Grace)
		return nil, err
	}
	go c.supervise()
	return c, nil
}

// checkService returns an error for the options that are about processes.
func (s *Settings) checkService(what string) error {
	return refuseOptions(what+": option %s is for a worker that this process starts", []givenOption{
		{"WithHostTimeout", s.Timeouts.Host != drivers.DefaultTimeouts().Host},
		{"WithData", s.hasData},
		{"WithRestart", s.Restart != nil && !s.impliedRestart},
		{"WithResume", s.resume != 0},
		{"WithHeartbeat", s.heartbeat.interval != 0},
		{"WithOutput", s.output != nil},
		{"WithChecksum", s.checksum != nil},
		{"WithMaxMemory, WithMaxCPU, WithMaxFiles or WithoutCoreDumps", s.resources != drivers.Resources{}},
	})
}

// dialFirst makes the first link.
func (c *ServiceClient) dialFirst(ctx context.Context) error {
	ctx, cancel := c.limit(ctx)
	defer cancel()
	r := c.settings.reconnect
	if r == nil || !r.Wait {
		_, err := c.dial(ctx)
		return err
	}
	wanted := r.complete()
	pauses := drivers.NewBackoff(wanted.Delay, wanted.MaxDelay)
	for {
		_, err := c.dial(ctx)
		if err == nil || ipc.CodeOf(err) != ipc.CodeUnavailable {
			return err
		}
		if wait.Within(ctx.Done(), pauses.Next(), nil) {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// limit bounds ctx by what a dial may take.
func (c *ServiceClient) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := c.settings.Timeouts.Start
	if timeout <= 0 {
		return ctx, func() {}
	}
	return wait.Timeout(ctx, timeout, &ipc.TimeoutError{What: "dialling service " + c.name, After: timeout})
}

// dial makes a link, and makes its session the present one. It returns the one before.
func (c *ServiceClient) dial(ctx context.Context) (old *engine.Session, err error) {
	c.attempts++
	s := c.settings
	link, err := c.driver.Dial(ctx, c.name, drivers.DialOptions{Allow: s.peerCheck, Hello: drivers.Hello{
		Codec: s.Codec.Name(), MaxMessage: s.maxMessage, Window: s.window, CallTimeout: s.Timeouts.Call,
	}})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	session := engine.New(engine.Config{
		Link: link, Side: engine.Host, Codec: s.Codec, Timeout: s.Timeouts.Call, AgreedTimeout: s.Timeouts.Call,
		MaxMessage: s.maxMessage, Window: s.window, StreamWindow: s.streamWindow,
		Handlers: c.handlers(), Chain: c.chain, Log: s.Logger, Explain: c.explain, Arena: c.memory.Arena, Forgotten: &c.memory.Forgotten,
	})
	session.Open()
	kind := EventReady
	if old = c.life.session.Swap(session); old != nil {
		kind = EventReconnected
		old.Replace()
	}
	c.pid = session.Peer().PID
	c.publish(kind, nil, 0)
	c.attempts = 0
	return old, nil
}

// publish tells the receiver of events, if there is one.
func (c *ServiceClient) publish(kind EventKind, err error, delay time.Duration) {
	c.events.Push(Event{Kind: kind, Time: time.Now(), PID: c.pid, Attempt: c.attempts, Err: err, Delay: delay})
}

// explain says which service it is whose link has ended.
func (c *ServiceClient) explain(s *engine.Session, err error) error {
	if errors.Is(err, ipc.ErrDisconnected) || errors.Is(err, ipc.ErrClosed) {
		return err // we have done it
	}
	return fmt.Errorf("tandem: service %s (pid %d) is gone: %w", c.name, s.Peer().PID, err)
}

// supervise follows the client through its links.
func (c *ServiceClient) supervise() {
	defer close(c.supervised)
	defer close(c.life.after)
	for {
		s, began := c.session(), time.Now()
		select {
		case <-s.Done():
		case <-s.Goodbye(): // the service wants us to leave, and still answers
		case <-c.ctx.Done():
			return
		}
		var why error
		if wait.Closed(s.Done()) {
			why = s.Err()
		}
		c.leaving.Go(func() { c.leave(s) })
		if !c.closing.Load() {
			c.publish(EventDisconnected, why, 0)
		}
		if c.settings.reconnect == nil || !c.revive(why, time.Since(began)) {
			return
		}
	}
}

// revive connects again, after a link that has lived for so long and ended because of why. It
// returns false if the client is closed, or gives up.
func (c *ServiceClient) revive(why error, lived time.Duration) bool {
	r := c.settings.reconnect.complete()
	if c.pauses == nil || lived > r.MaxDelay {
		c.pauses, c.farewells = drivers.NewBackoff(r.Delay, r.MaxDelay), 0
	}
	pause := c.pauses.Next()
	if why == nil {
		c.farewells++
	}
	if lived > r.MaxDelay || why == nil && c.farewells <= maxFarewells {
		pause = 0 // most of the time the next one listens already
	}
	for {
		if pause > 0 {
			c.publish(EventReconnecting, why, pause)
			if wait.Within(c.ctx.Done(), pause, nil) {
				return false
			}
		}
		ctx, cancel := c.limit(c.ctx)
		_, err := c.dial(ctx)
		cancel()
		if err == nil {
			return true
		}
		if c.closing.Load() {
			return false
		}
		if disagree(err) || r.MaxAttempts > 0 && c.attempts >= r.MaxAttempts {
			err = fmt.Errorf("tandem: service %s: given up after %d attempts to connect again: %w: %w", c.name, c.attempts, ipc.ErrPeerGone, err)
			c.gaveUp.Store(&err)
			c.publish(EventGaveUp, err, 0)
			return false
		}
		why, pause = err, c.pauses.Next()
	}
}

// maxFarewells is how many services in a row may ask the client to leave before it no longer connects again at
// once. They may be replaced quickly, or do so to everybody.
const maxFarewells = 3

// disagree reports whether err says that the two sides do not agree, whoever has found out.
func disagree(err error) bool {
	var mismatch *ipc.MismatchError
	var refused *ipc.RefusedError
	return errors.As(err, &mismatch) || errors.As(err, &refused) && refused.Code == ipc.CodeFailedPrecondition
}

// leave ends a link in good order: it waits for the calls that are pending, tells the service,
// and closes it.
func (c *ServiceClient) leave(s *engine.Session) {
	why := errLeaving
	if c.closing.Load() {
		why = ipc.ErrClosed
	}
	s.Retire(why)
	s.EndLasting(why)
	// The service says how long they may take, until this side is closed.
	if !s.Idle(forever, c.ctx.Done()) && !s.Idle(c.settings.Timeouts.Grace, s.Done()) {
		s.FailCalls(ipc.ErrClosed)
	}
	if !s.Failing() {
		ctx, cancel := wait.Timeout(context.Background(), max(c.settings.Timeouts.Grace, time.Millisecond), nil)
		_ = s.Link().Send(ctx, &drivers.Frame{Kind: drivers.KindGoodbye}) // best effort
		wait.Within(s.Done(), c.settings.Timeouts.Grace, ctx.Done())
		cancel()
	}
	s.Close(lostGrace)
}

// forever is longer than anything takes.
const forever = 100 * 365 * 24 * time.Hour

// Close ends the link, and leaves the service alone. It refuses further calls, and waits for
// pending ones within the grace ([WithGrace]); those that outlast it fail with
// [ipc.ErrClosed]. The error is always nil.
func (c *ServiceClient) Close() error {
	c.closing.Store(true)
	c.stop()
	return c.close()
}

func (c *ServiceClient) shutdown() error {
	<-c.supervised
	c.leaving.Go(func() { c.leave(c.session()) })
	c.leaving.Wait()
	c.memory.Close()
	c.events.Close(c.settings.Timeouts.Grace)
	return nil
}

// Name returns the name that was dialled.
func (c *ServiceClient) Name() string { return c.name }

// Peer returns the process that serves, or that did last.
func (c *ServiceClient) Peer() ipc.Peer { return c.session().Peer() }

// Capabilities returns what the link can do. Only a worker's client disconnects and detaches.
func (c *ServiceClient) Capabilities() drivers.Capabilities {
	return drivers.Capabilities{SharedMemory: c.driver.Capabilities().SharedMemory}
}

// Codec returns the codec of methods that do not choose one.
func (c *ServiceClient) Codec() ipc.Codec {
	if c == nil {
		panic("tandem: the client is nil")
	}
	return c.settings.Codec
}
