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
	"github.com/tandemipc/tandem/worker/internal/command"
	"github.com/tandemipc/tandem/worker/internal/engine"
	"github.com/tandemipc/tandem/worker/internal/queue"
	"github.com/tandemipc/tandem/worker/internal/restart"
	"github.com/tandemipc/tandem/worker/internal/retry"
)

// ExitError is how calls fail when the worker's process has ended.
type ExitError = ipc.ExitError

// Client is a host's handle of one worker. It is an [ipc.Caller], and safe for
// concurrent use. What else it can do depends on its driver, and is found on its
// Channel.
//
// A worker is one process, or one after the other: with [WithRestart] the client
// starts it again when it has ended unasked, and stays usable, with its handlers.
type Client[C drivers.Channel] struct {
	Handlers

	// How to start the worker.
	cmd    *exec.Cmd
	data   []byte // the user's, encoded
	driver drivers.Driver[C]

	caps     drivers.Capabilities
	settings *Settings
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

	closing    atomic.Bool
	ctx        context.Context // ends when the client is closed
	stop       context.CancelFunc
	close      func() error  // once
	released   chan struct{} // closed when Close has released the worker
	supervised chan struct{} // closed when supervise has ended
}

// Spawn starts cmd as a worker, linked to this process by a driver, and returns
// when the worker is ready to be called. The driver's type determines the type
// of the client; a nil driver of type drivers.Driver[*socket.Channel] stands for
// socket.Driver{}, and see [Start].
//
// cmd is a template: Spawn starts a copy, with its Path, Args, Env, Dir, Stdin,
// Stdout, Stderr, ExtraFiles, SysProcAttr and WaitDelay, and so does each restart.
// They mean what they mean to os/exec. A relative Path or Dir is made absolute by
// Spawn; a Dir that is empty is the host's working directory at each start. A
// command that was started, that has a Cancel, as exec.CommandContext sets it, or
// pipes by StdoutPipe and the like, is an error. Spawn panics if cmd is nil.
//
// A Stderr that is nil means the host's os.Stderr, unless [WithOutput] is given; set it to
// [io.Discard] to keep the worker quiet. What the worker said last on stderr is kept
// for errors in any case. A Stdin or Stdout that is nil is the null device, as with
// os/exec, and for a detached worker so is Stderr.
//
// Readers and writers that are no files are copied from and to, as with os/exec. One
// that several workers share, such as those of a pool or one after the other by
// restarts, gets one Read or Write at a time, if its type can be compared. One that
// blocks delays nothing but its own stream. When the process has ended, what it has
// left is copied for half a second, or for the WaitDelay of cmd; then a copy that has
// not ended is given up. What it had read from Stdin is lost.
//
// ctx bounds the start, as does [WithStartTimeout], and not the worker's life. If
// Spawn fails, it leaves no process, and the error says why and holds the
// worker's last words: an [*ExitError] is in its tree if the worker exited, an
// [*ipc.MismatchError] or [*ipc.RefusedError] if the two could not agree, an
// [*ipc.TimeoutError] if the limit ran out.
//
// A worker may start workers of its own. One that does before it calls [Server.Serve]
// may take itself for the host: three such in a row that run the same program with the
// same arguments, or nine of any kind, are an error.
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
	c := &Client[C]{settings: s, caps: caps, released: make(chan struct{}), supervised: make(chan struct{})}
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

// Channel returns the driver's channel, with what only this driver can do. After
// a restart it is another one.
func (c *Client[C]) Channel() C { return c.current.Load().channel }

// PID returns the process id of the worker: of the present process, or of the
// last one if there is none now.
func (c *Client[C]) PID() int { return c.Process().PID() }

// Process returns the worker's process: the present one, or the last one if there is
// none now.
func (c *Client[C]) Process() drivers.Process { return c.Channel().Process() }

// Capabilities returns what the driver can do.
func (c *Client[C]) Capabilities() drivers.Capabilities { return c.caps }

// Active reports whether the client takes calls at once: it is connected, and not
// being closed.
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
func (c *Client[C]) Invoke(ctx context.Context, inv ipc.Invocation) ([]byte, error) {
	if c.closing.Load() {
		return nil, ipc.ErrClosed
	}
	if c.settings.Restart != nil {
		return c.persist(ctx, inv)
	}
	return c.session().Invoke(ctx, inv)
}

// Start is the first half of Invoke: it returns when the request was sent. It is
// what [ipc.Method.Go] is built on. A started call belongs to the present link: if
// that ends the call fails, whatever [WithRetry] and [WithResume] do for others.
func (c *Client[C]) Start(ctx context.Context, inv ipc.Invocation) (ipc.Pending, error) {
	if c.closing.Load() {
		return nil, ipc.ErrClosed
	}
	return c.session().Start(ctx, inv)
}

// Batch calls f with a caller that sends requests together: see [ipc.Batch]. All go
// over the present link, as with [Client.Start].
func (c *Client[C]) Batch(ctx context.Context, f func(ipc.Caller) error) error {
	if c.closing.Load() {
		return ipc.ErrClosed
	}
	return c.session().Batch(ctx, f)
}

// handlers are the client's own, or those of its pool.
func (c *Client[C]) handlers() *engine.Registry {
	if c.settings.Handlers != nil {
		return c.settings.Handlers.handlers()
	}
	return c.Handlers.handlers()
}

// LateResponses returns how many answers came after their callers had given up, over the
// present link.
func (c *Client[C]) LateResponses() uint64 { return c.session().LateResponses() }

// session is the present one, or the last.
func (c *Client[C]) session() *engine.Session { return c.current.Load().session.Load() }
