package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

// ExitError is how calls fail when the worker's process has ended.
type ExitError = ipc.ExitError

// Client is a host's handle of one worker process. It is an [ipc.Caller], and
// safe for concurrent use. What else it can do depends on its driver, and is
// found on its Channel.
type Client[C ipc.Channel] struct {
	registry

	channel C
	caps    ipc.Capabilities
	opts    *options

	session atomic.Pointer[session]
	closing atomic.Bool
	close   func() error // once
	watched chan struct{}
}

// Spawn starts cmd as a worker, linked to this process by a driver, and returns
// when the worker is ready to be called. The driver's type determines the type
// of the client; a nil driver of type ipc.Driver[*socket.Channel] stands for
// socket.Driver{}, and see [Start].
//
// cmd is a template: Spawn starts a copy, with its Path, Args, Env, Dir, Stdin,
// Stdout, Stderr, ExtraFiles and SysProcAttr. The tail of stderr is kept for
// errors in any case.
//
// ctx bounds the start, as does [WithStartLimit], and not the worker's life. If
// Spawn fails, it leaves no process, and the error says why and holds the
// worker's last words: an [*ExitError] is in its tree if the worker exited, an
// [*ipc.MismatchError] or [*ipc.RefusedError] if the two could not agree, an
// [*ipc.LimitError] if the limit ran out.
//
// The client has to be closed.
func Spawn[C ipc.Channel](ctx context.Context, cmd *exec.Cmd, driver ipc.Driver[C], opts ...Option) (*Client[C], error) {
	if err := checkEntry(); err != nil {
		return nil, err
	}
	if driver == nil {
		var ok bool
		if driver, ok = any(socket.Driver{}).(ipc.Driver[C]); !ok {
			return nil, fmt.Errorf("tandem: no driver is given, and the default, socket, has no channels of type %v", reflect.TypeFor[C]())
		}
	}
	o := newOptions(opts)
	command := &ipc.Command{Cmd: cloneCmd(cmd), Startup: ipc.StartupData{
		Protocol: ipc.ProtocolVersion,
		Driver:   driver.Name(), Import: importPath(driver),
		Codec: o.codec.Name(), HostPID: os.Getpid(), Limits: o.limits, MaxMessage: o.maxMessage,
	}, Resources: o.resources, Checksum: o.checksum, Output: o.output}
	if o.hasData {
		data, err := ipc.CBOR.Append(nil, o.data)
		if err != nil {
			return nil, fmt.Errorf("tandem: encode the user data for the worker: %w", err)
		}
		command.Startup.UserData = data
	}
	if o.limits.Start > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.limits.Start, &ipc.LimitError{What: "the start of worker " + cmd.Path, Limit: o.limits.Start})
		defer cancel()
	}
	channel, err := driver.Spawn(ctx, command)
	if err != nil {
		return nil, err
	}
	c := &Client[C]{channel: channel, caps: driver.Capabilities(), opts: o, watched: make(chan struct{})}
	c.close = sync.OnceValue(c.shutdown)
	channel.Links(func(link ipc.Link) {
		if old := c.session.Swap(newSession(link, 0, o.codec, o.limits, &c.registry, o.log, c.explain)); old != nil {
			go old.close(0) // when its handlers have ended
		}
	})
	go c.watch()
	return c, nil
}

// Start is [Spawn] with the default driver, the socket one.
func Start(ctx context.Context, cmd *exec.Cmd, opts ...Option) (*Client[*socket.Channel], error) {
	return Spawn(ctx, cmd, socket.Driver{}, opts...)
}

// cloneCmd copies what a user can set on a template that is not started.
func cloneCmd(c *exec.Cmd) *exec.Cmd {
	clone := &exec.Cmd{
		Path: c.Path, Args: append([]string(nil), c.Args...), Env: append([]string(nil), c.Env...), Dir: c.Dir,
		Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
		ExtraFiles: append([]*os.File(nil), c.ExtraFiles...), SysProcAttr: c.SysProcAttr, WaitDelay: c.WaitDelay, Err: c.Err,
	}
	if c.Env == nil {
		clone.Env = nil
	}
	if clone.Args == nil {
		clone.Args = []string{c.Path}
	}
	return clone
}

func importPath(driver any) string {
	t := reflect.TypeOf(driver)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath()
}

// explain waits for the exit of a process whose link has ended, for the socket
// ends a moment before.
func (c *Client[C]) explain(err error) error {
	if !errors.Is(err, ipc.ErrPeerGone) {
		return err
	}
	p := c.channel.Process()
	select {
	case <-p.Done():
		if c.closing.Load() {
			return fmt.Errorf("%w: %w", ipc.ErrClosed, p.Exit())
		}
		return p.Exit()
	case <-time.After(exitDelay):
		return fmt.Errorf("worker (pid %d) has closed its link, and runs: %w", p.PID(), err)
	}
}

// exitDelay is how long a process may outlive its end of the link.
const exitDelay = 3 * time.Second

// watch ends the session of a process that has ended, should the end of the
// link itself not be seen, as when a descendant holds it open.
func (c *Client[C]) watch() {
	defer close(c.watched)
	p := c.channel.Process()
	<-p.Done()
	s := c.session.Load()
	select {
	case <-s.done:
	case <-time.After(exitDelay):
		s.lost(p.Exit())
	}
}

// Channel returns the driver's channel, with what only this driver can do.
func (c *Client[C]) Channel() C { return c.channel }

// PID returns the process id of the worker.
func (c *Client[C]) PID() int { return c.channel.Process().PID() }

// Capabilities returns what the driver can do.
func (c *Client[C]) Capabilities() ipc.Capabilities { return c.caps }

// Active reports whether the client takes calls: it is connected, and not
// being closed.
func (c *Client[C]) Active() bool { return !c.closing.Load() && c.Connected() }

// Connected reports whether there is a link to the worker.
func (c *Client[C]) Connected() bool { return !c.session.Load().ending.Load() }

// Codec returns the codec of methods that do not choose one.
func (c *Client[C]) Codec() ipc.Codec { return c.opts.codec }

// Invoke calls a method with an encoded request. It is what [ipc.Method.Call]
// is built on.
func (c *Client[C]) Invoke(ctx context.Context, inv ipc.Invocation) ([]byte, error) {
	if c.closing.Load() {
		return nil, ipc.ErrClosed
	}
	return c.session.Load().Invoke(ctx, inv)
}

// Start is the first half of Invoke: it returns when the request was sent. It is
// what [ipc.Method.Go] is built on.
func (c *Client[C]) Start(ctx context.Context, inv ipc.Invocation) (ipc.Pending, error) {
	if c.closing.Load() {
		return nil, ipc.ErrClosed
	}
	return c.session.Load().Start(ctx, inv)
}

// Batch calls f with a caller that sends requests together: see [ipc.Batch].
func (c *Client[C]) Batch(ctx context.Context, f func(ipc.Caller) error) error {
	if c.closing.Load() {
		return ipc.ErrClosed
	}
	return c.session.Load().Batch(ctx, f)
}

// Late returns how many answers came after their callers had given up.
func (c *Client[C]) Late() uint64 { return c.session.Load().late.Load() }

// How long Close waits after a signal, in addition to the grace.
const (
	termDelay = 2 * time.Second
	killDelay = 5 * time.Second
)

// Close ends the worker: it takes no more calls, waits for those that are
// pending, says goodbye so that the worker can finish in order, and if it does
// not end within the grace ([WithGrace]) sends SIGTERM to its process group, and
// two seconds later SIGKILL. The process has been reaped when Close returns,
// which is after twice the grace and a few seconds at the latest. Pending calls
// that outlast the grace fail with [ipc.ErrClosed].
//
// Close returns an [*ExitError] if the worker had not ended with exit code 0.
// Further calls return the same.
func (c *Client[C]) Close() error {
	c.closing.Store(true)
	return c.close()
}

func (c *Client[C]) shutdown() error {
	p := c.channel.Process()
	s := c.session.Load()
	grace := c.opts.limits.Grace
	s.calls.drained(grace, p.Done())
	if !s.ending.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), max(grace, time.Millisecond))
		if s.link.Send(ctx, ipc.Frame{Kind: ipc.KindGoodbye}) == nil {
			within(p.Done(), grace, nil)
		}
		cancel()
	}
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{syscall.SIGTERM, termDelay}, {syscall.SIGKILL, killDelay}} {
		select {
		case <-p.Done():
		default:
			_ = p.Signal(step.sig) // it can only have ended just now
			within(p.Done(), step.wait, nil)
		}
	}
	s.close(lostGrace)
	err := c.channel.Close()
	if last := c.session.Load(); last != s { // the channel reconnected meanwhile
		last.close(lostGrace)
	}
	exit := p.Exit()
	if exit == nil {
		return fmt.Errorf("tandem: worker (pid %d) has not ended %v after SIGKILL: is it stuck in the kernel?", p.PID(), killDelay)
	}
	<-c.watched
	if exit.Code != 0 {
		return exit
	}
	return err
}

// within waits for done or other, for d at most.
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
