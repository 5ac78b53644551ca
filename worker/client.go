package worker

import (
	"context"
	"fmt"
	"os/exec"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/chain"
	"github.com/tandemipc/tandem/worker/internal/command"
	"github.com/tandemipc/tandem/worker/internal/engine"
	"github.com/tandemipc/tandem/worker/internal/memory"
	"github.com/tandemipc/tandem/worker/internal/queue"
	"github.com/tandemipc/tandem/worker/internal/restart"
	"github.com/tandemipc/tandem/worker/internal/retry"
)

// ExitError is the error of calls whose worker's process has ended: see [ipc.ExitError].
type ExitError = ipc.ExitError

// Client is a host's handle of one worker. It is an [ipc.Caller], and safe for
// concurrent use. What only its driver can do is done with its Channel.
//
// With [WithRestart] a worker is one process after the other: when a process has ended
// though nobody closed the client, the client starts the next one, and stays usable,
// with its handlers.
type Client[C drivers.Channel] struct {
	Handlers

	// How to start the worker.
	cmd    *exec.Cmd
	data   []byte // the user's, encoded
	driver drivers.Driver[C]

	caps     drivers.Capabilities
	settings *Settings
	chain    *chain.Chain        // of the interceptors, nil if there are none
	events   *queue.Queue[Event] // nil if nobody wants them

	current atomic.Pointer[incarnation[C]] // the present one, or the last
	// restartLock is held while one incarnation has ended and the next has not begun.
	// It guards the following three.
	restartLock sync.Mutex
	restarts    *restart.Counter // nil: the worker is not started again
	starts      int
	copies      copies
	gaveUp      atomic.Pointer[error] // why there will be no further incarnation
	notRetried  retry.Notice
	memory      *memory.Keeper

	closing    atomic.Bool
	ctx        context.Context // ends when the client is closed
	stop       context.CancelFunc
	close      func() error  // once
	released   chan struct{} // closed when Close has released the worker
	supervised chan struct{} // closed when supervise has ended
}

// Spawn starts cmd as a worker, linked to this process by a driver, and returns
// when the worker takes calls. The driver's type determines the type of the client. A
// nil driver of type drivers.Driver[*socket.Channel] stands for socket.Driver{}; see
// [Start].
//
// cmd is a template: Spawn and each restart start a copy with the same Path, Args, Env,
// Dir, Stdin, Stdout, Stderr, ExtraFiles, SysProcAttr and WaitDelay. They mean what they
// mean to os/exec. Spawn makes a relative Path or Dir absolute; if Dir is empty each
// process starts in the directory where the host is then. Spawn returns an error if cmd
// was started, if it has a Cancel, as exec.CommandContext sets it, or if it has pipes by
// StdoutPipe and the like. It panics if cmd is nil.
//
// If Stderr is nil the worker's stderr is the host's os.Stderr, unless [WithOutput] is
// given; set it to [io.Discard] to keep the worker quiet. Errors have what the worker
// wrote last to stderr in any case. If Stdin or Stdout is nil, it is the null device, as
// with os/exec. A detached worker has the null device for all that is not a file.
//
// Spawn copies from and to readers and writers that are no files, as os/exec does. One
// that several processes use, in a pool or after restarts, gets one Read or Write at a
// time, if its type can be compared. If one blocks, only its own stream waits. When the
// process has ended, what it has left is copied for half a second, or for the WaitDelay
// of cmd. What the process had read from Stdin is lost.
//
// ctx and [WithStartTimeout] bound the start, but not the life of the worker. If Spawn
// fails it leaves no process. The error says why, with what the worker wrote last to
// stderr. It wraps an [*ExitError] if the worker exited, an [*ipc.MismatchError] or
// [*ipc.RefusedError] if host and worker do not agree, an [*ipc.TimeoutError] if the
// timeout ran out, and [ipc.ErrExhausted] if either side is short of a resource, such as
// open files.
//
// A worker may start workers of its own. If a program takes itself for the host in its
// worker, too, it would start processes without end. So Spawn returns an error in the
// third process in a row that runs the same program with the same arguments and has not
// called [Server.Serve], and in the ninth of any kind.
//
// The client has to be closed.
func Spawn[C drivers.Channel](ctx context.Context, cmd *exec.Cmd, driver drivers.Driver[C], opts ...Option) (*Client[C], error) {
	if ctx == nil {
		panic("tandem: Spawn with a nil context")
	}
	if err := checkEntry(); err != nil {
		return nil, err
	}
	if driver == nil {
		var ok bool
		if driver, ok = any(socket.Driver{}).(drivers.Driver[C]); !ok {
			return nil, fmt.Errorf("tandem: no driver is given, and the default, socket, has no channels of type %v", reflect.TypeFor[C]())
		}
	}
	cmd = command.Clone(cmd)
	if err := checkDepth(cmd); err != nil {
		return nil, err
	}
	s := Resolve(opts...)
	s.agreedTimeout = s.Timeouts.Call
	if err := s.checkResume(driver.Name(), driver.Capabilities()); err != nil {
		return nil, err
	}
	var data []byte
	if s.hasData {
		var err error
		if data, err = ipc.CBOR.Append(nil, s.data); err != nil {
			return nil, fmt.Errorf("tandem: encode the user data for the worker: %w", err)
		}
	}
	c := newClient[C](s, driver.Capabilities())
	c.driver, c.cmd, c.data = driver, cmd, data
	if s.Restart != nil {
		c.restarts = restart.NewCounter(restart.Policy(*s.Restart))
	}
	first, err := c.start(ctx)
	if err != nil {
		c.events.Close(s.Timeouts.Grace)
		return nil, err
	}
	c.run(first)
	go c.supervise()
	return c, nil
}

// newClient returns a client without a worker.
func newClient[C drivers.Channel](s *Settings, caps drivers.Capabilities) *Client[C] {
	c := &Client[C]{settings: s, caps: caps, chain: chain.New(s.Interceptors), released: make(chan struct{}), supervised: make(chan struct{})}
	if c.memory = s.Memory; c.memory == nil {
		c.memory = new(memory.Keeper)
		c.memory.Init(s.Arena, s.Logger)
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.close = sync.OnceValue(c.shutdown)
	if s.Events != nil {
		c.events = newEvents(s.Events)
	}
	return c
}

// Start is [Spawn] with the default driver, the socket one.
func Start(ctx context.Context, cmd *exec.Cmd, opts ...Option) (*Client[*socket.Channel], error) {
	return Spawn(ctx, cmd, socket.Driver{}, opts...)
}

func importPath(driver any) string {
	t := reflect.TypeOf(driver)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath()
}

// Channel returns the driver's channel, whose methods are what only this driver can do.
// After a restart there is another channel.
func (c *Client[C]) Channel() C { return c.current.Load().channel }

// PID returns the id of the worker's process: the present one, or the last one if there
// is none now. A worker in a pid namespace of its own has another id there.
func (c *Client[C]) PID() int { return c.Process().PID() }

// Process returns the worker's process: the present one, or the last one if there is
// none now.
func (c *Client[C]) Process() drivers.Process { return c.Channel().Process() }

// Capabilities returns what the driver can do.
func (c *Client[C]) Capabilities() drivers.Capabilities { return c.caps }

// Active reports whether calls are sent at once: the client is connected, and nobody
// closes it.
func (c *Client[C]) Active() bool { return !c.closing.Load() && c.Connected() }

// Connected reports whether there is a link to the worker.
func (c *Client[C]) Connected() bool { return !c.session().Failing() }

// Codec returns the codec of methods that do not choose one.
func (c *Client[C]) Codec() ipc.Codec {
	if c == nil {
		panic("tandem: the client is nil")
	}
	return c.settings.Codec
}

// Invoke calls a method with an encoded request. It is what [ipc.Method.Call]
// is built on.
func (c *Client[C]) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	if c.closing.Load() {
		return nil, ipc.ErrClosed
	}
	if c.chain.Calls() {
		return c.intercepted(ctx, inv, request, memory)
	}
	if c.settings.Restart != nil {
		return c.persist(ctx, inv, request, memory)
	}
	return c.session().Invoke(ctx, inv, request, memory)
}

// Start is the first half of Invoke: it returns when the request was sent. It is what
// [ipc.Method.Go] is built on. A started call belongs to the present link. If the link
// ends the call fails, even with [WithRetry] or [WithResume].
func (c *Client[C]) Start(ctx context.Context, inv *ipc.Invocation, request, memory []byte) (ipc.Pending, error) {
	if c.closing.Load() {
		return nil, ipc.ErrClosed
	}
	if c.chain.Calls() {
		return c.interceptor().Start(ctx, inv, request, memory)
	}
	return c.session().Start(ctx, inv, request, memory)
}

// Batch calls f with a caller that sends requests together: see [ipc.Batch]. They belong
// to the present link, as with [Client.Start].
func (c *Client[C]) Batch(ctx context.Context, f func(ipc.Caller) error) error {
	if c.closing.Load() {
		return ipc.ErrClosed
	}
	if c.chain.Calls() {
		return c.interceptor().Batch(ctx, f)
	}
	return c.session().Batch(ctx, f)
}

// OpenStream opens a stream of encoded items. It is what the Open methods of streams are built
// on. A stream belongs to the present link, and ends with it. If there is none, and the worker
// is started again ([WithRestart]), OpenStream waits for the next.
func (c *Client[C]) OpenStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	if c.closing.Load() {
		return nil, ipc.ErrClosed
	}
	if c.chain.Calls() {
		return c.interceptedStream(ctx, inv, o)
	}
	if c.settings.Restart != nil {
		return c.persistStream(ctx, inv, o)
	}
	return c.session().OpenStream(ctx, inv, o)
}

// handlers are the client's own, or those of its pool.
func (c *Client[C]) handlers() *engine.Registry {
	if c.settings.Handlers != nil {
		return c.settings.Handlers.handlers()
	}
	return c.Handlers.handlers()
}

// LateResponses returns how many answers have come over the present link after their
// callers had given up, or as errors after this side had ended the link.
func (c *Client[C]) LateResponses() uint64 { return c.session().LateResponses() }

// session is the present one, or the last.
func (c *Client[C]) session() *engine.Session { return c.current.Load().session.Load() }
