package ipc

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
)

// Capabilities says what the links of a driver can do beyond calling.
type Capabilities struct {
	// Reconnect: a link can be closed and opened again while the worker lives.
	Reconnect bool
	// Detach: a worker can outlive the host that started it.
	Detach bool
	// SharedMemory: payloads cross in memory that both processes map.
	SharedMemory bool
}

// String lists the capabilities that are set, or "none".
func (c Capabilities) String() string {
	var set []string
	for _, f := range []struct {
		name string
		on   bool
	}{{"Reconnect", c.Reconnect}, {"Detach", c.Detach}, {"SharedMemory", c.SharedMemory}} {
		if f.on {
			set = append(set, f.name)
		}
	}
	if set == nil {
		return "none"
	}
	return strings.Join(set, "+")
}

// Driver starts worker processes and links them to the host. C is the concrete
// channel of the driver, and through it the compiler knows what a client of
// this driver can do.
//
// A driver's options are the fields of the type that implements Driver; its
// zero value is useful. The type also implements [Acceptor], for the worker's
// side of the link.
type Driver[C Channel] interface {
	// Name is the short name that host and worker agree on, such as "socket".
	Name() string
	// Capabilities says what channels of this driver can do.
	Capabilities() Capabilities
	// Spawn starts cmd and returns when the worker has said hello. It ends
	// when ctx does. After an error no process, descriptor or file is left.
	Spawn(ctx context.Context, cmd *Command) (C, error)
}

// Command is what a [Driver] starts: the user's command and what its worker is
// told. A driver uses each Command once and may change it.
type Command struct {
	// Cmd was cloned from the user's template and has not been started.
	Cmd *exec.Cmd
	// Startup is what the worker will find in [Startup]. The driver fills in
	// Driver, Control, Life, Program, Address and DriverData.
	Startup StartupData
	// Resources bound what the process may use.
	Resources Resources
	// Checksum, if not nil, is the SHA-256 that the program's file has to have. A
	// program with another is not started: the error is a [*ChecksumError].
	Checksum *[sha256.Size]byte
	// Output, if not nil, gets the lines that the process writes to those of
	// stdout and stderr that Cmd leaves nil.
	Output *slog.Logger
	// Started, if set, is called when the process has been started, before its
	// hello.
	Started func(pid int)
}

// Resources bound what a worker's process may use. A field that is 0 or false
// sets no bound. What the bounds do is told with the options of package worker.
type Resources struct {
	Memory      int64 // in bytes
	CPUs        int
	Files       int // open at a time
	NoCoreDumps bool
}

// Channel is a host's end of the connection to one worker process. Drivers
// add methods of their own for what only they can do.
type Channel interface {
	// Process is the worker's process.
	Process() Process
	// Links calls fn with the present link, before it returns, and with each
	// later one when the channel reconnects. It is called once.
	Links(fn func(Link))
	// Close releases what the driver holds, and ends the present link without
	// closing it: that is for whoever Links gave it to. It neither ends nor
	// signals the process. Close may be called more than once and concurrently.
	Close() error
}

// Link carries frames, in order and in both directions, between two processes.
// It lives as long as one connection does, and ends once.
//
// A link has one reader at a time: Next, Hold, Spin, Arm and Disarm may be called
// only by the goroutine that holds the reader role, which the caller of this
// interface hands around. The other methods are safe for concurrent use.
type Link interface {
	// Send sends one frame; it has left f.Payload when it returns. If the peer
	// does not make room Send blocks, until ctx ends or the link does. A frame
	// larger than the agreed limit is refused with a [*SizeError]. If Send fails
	// the peer does not see the frame, except where the link itself ended.
	Send(ctx context.Context, f Frame) error

	// SendBatch sends frames in their order, all at once if there is room. The first
	// n of them count as sent, so n is len(frames) if there is no error; errors are
	// those of Send.
	SendBatch(ctx context.Context, frames []Frame) (n int, err error)

	// Next returns the next frame without blocking; ok is false if there is
	// none now. Frame.Payload is valid until the following call of Next and may
	// lie in memory that the peer can write, unless Frame.Owned is set. When the
	// peer is gone Next first returns all that it had published, then an error
	// that wraps [ErrPeerGone] or [ErrDisconnected].
	Next() (f Frame, ok bool, err error)
	// Hold keeps the payload of the frame that Next returned last valid until
	// release is called, though Next goes on. Until then the peer may find less
	// room, or none. It may be called once for each frame, and release once, by any
	// goroutine, also when the link has ended.
	Hold() (release func())
	// Recycle takes memory that nobody uses any more, such as the payload of an
	// earlier frame that was Owned, for later frames. Any goroutine may call it.
	Recycle(b []byte)
	// Spin is called after Next found nothing. It pauses for a moment and says
	// whether to ask again rather than to sleep.
	Spin() bool
	// Arm asks the peer to wake a sleeper for what it sends from now on. The
	// caller has to look at Ready afterwards.
	Arm()
	// Disarm takes Arm back.
	Disarm()

	// Ready reports whether Next would return a frame or an error.
	Ready() bool
	// Sleep returns at once if until reports true, and otherwise blocks until
	// the peer, if the link is armed, has sent something, the link ends, or Wake
	// is called. It may also return for no reason. It reads nothing, so another
	// goroutine may hold the reader role meanwhile. One goroutine at a time.
	Sleep(until func() bool)
	// Wake makes a Sleep that runs, or else the next one, return.
	Wake()

	// Peer is what the other side said in its hello.
	Peer() Hello
	// Close ends the link: blocked and later calls fail with [ErrDisconnected].
	// It waits for a running Sleep to return. The reader role must be free or
	// held by the caller, for Close takes the memory away from under Next.
	Close() error
	// Shutdown ends the link like Close but keeps its memory, so that it may be
	// called at any time. Next still returns what has arrived.
	Shutdown()
}

// Claimer is a [Link] that can have the payload of a frame built in its own memory.
// Its methods are safe for concurrent use.
type Claimer interface {
	// Claim returns n bytes for the payload of f, whose own Payload is ignored,
	// with whatever was there before. It blocks like Send, and then makes all who
	// want to send wait until Commit or Abort, one of which has to follow. A frame
	// that is too large to be built in place is refused with a [*SizeError], which
	// says how much is possible; Send may take it all the same.
	Claim(ctx context.Context, f Frame, n int) ([]byte, error)
	// Commit sends the frame with the first n of the bytes that were claimed.
	Commit(n int)
	// Abort drops the frame.
	Abort()
}

// Process is a worker's process, as its host sees it.
type Process interface {
	// PID is the process id. It is not reused before Done is closed.
	PID() int
	// Done is closed when the process has ended and has been reaped.
	Done() <-chan struct{}
	// Exit says how the process ended. It is nil until Done is closed.
	Exit() *ExitError
	// Signal sends sig to the worker's process group, and is a no-op with
	// [os.ErrProcessDone] after the process was reaped.
	Signal(sig os.Signal) error
	// Stderr is the tail of what the process wrote to stderr so far.
	Stderr() string
}

// Acceptor is the worker's side of a driver.
type Acceptor interface {
	// Name is the driver's name, as in [Driver].
	Name() string
	// Open prepares the worker's end as s says.
	Open(s *StartupData) (Endpoint, error)
}

// Endpoint is a worker's end of a driver: it yields a link for each time that
// a host connects.
type Endpoint interface {
	// Accept waits for a host, exchanges hellos with it and returns the link.
	// An endpoint whose driver cannot reconnect yields one link only and then
	// fails with an error that wraps [ErrPeerGone].
	Accept(ctx context.Context, local Hello) (Link, error)
	// Close releases what the endpoint holds; links live on.
	Close() error
}

var drivers struct {
	sync.RWMutex
	byName map[string]Acceptor
}

// RegisterDriver makes the worker's side of a driver known under its name.
// Packages of drivers call it when they are initialised, so that importing one
// links it in. It panics if the name is taken.
func RegisterDriver(a Acceptor) {
	drivers.Lock()
	defer drivers.Unlock()
	if _, taken := drivers.byName[a.Name()]; taken {
		panic(fmt.Sprintf("tandem: driver %q is registered twice", a.Name()))
	}
	if drivers.byName == nil {
		drivers.byName = make(map[string]Acceptor)
	}
	drivers.byName[a.Name()] = a
}

// FindDriver returns the registered driver of this name, and false if it is
// not linked into this program.
func FindDriver(name string) (Acceptor, bool) {
	drivers.RLock()
	defer drivers.RUnlock()
	a, ok := drivers.byName[name]
	return a, ok
}

// DriverNames returns the names of the drivers linked into this program, sorted.
func DriverNames() []string {
	drivers.RLock()
	defer drivers.RUnlock()
	names := make([]string, 0, len(drivers.byName))
	for n := range drivers.byName {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
