package drivers

import (
	"os"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// Channel is a host's end of the connection to one worker process. Drivers
// add methods of their own for what only they can do.
type Channel interface {
	// Process is the worker's process.
	Process() Process
	// Links calls fn with the present link, before it returns, and with each
	// later one when the channel reconnects. It is called once.
	Links(fn func(Link))
	// Close releases what the driver holds, and ends the present link without
	// closing it: who got the link from Links closes it. Close neither ends nor
	// signals the process. It may be called more than once and concurrently.
	Close() error
}

// Detachable is a [Channel] of a driver with the capability Detach: it can leave its
// worker alone.
type Detachable interface {
	Channel
	// Detached reports whether the channel has left the worker, which then
	// outlives the channel and is not to be ended with it.
	Detached() bool
}

// Reconnectable is a [Channel] of a driver with the capability Reconnect: it can have
// one link after the other.
type Reconnectable interface {
	Channel
	// Done returns a channel that is closed when there will be no further link,
	// because this side has closed the channel or detached the worker.
	Done() <-chan struct{}
}

// Process is a worker's process, as its host sees it.
type Process interface {
	// PID is the process id. It is not reused before Done is closed.
	PID() int
	// Done is closed when the process has ended and has been reaped.
	Done() <-chan struct{}
	// Exit says how the process ended. It is nil until Done is closed.
	Exit() *ipc.ExitError
	// Signal sends sig to the worker's process group, and is a no-op with
	// [os.ErrProcessDone] after the process was reaped.
	Signal(sig os.Signal) error
	// Stderr is what the process said last on stderr so far, as in [ipc.ExitError].
	Stderr() string
}

// Copier is a [Process] for whose stdin, stdout or stderr the host copies from or to
// readers and writers that are no files.
type Copier interface {
	Process
	// Copied is closed when the copies have ended or were given up, a while after Done
	// at the latest.
	Copied() <-chan struct{}
}

// ExitDelay is how long a process may outlive its end of a link, or a start that has
// failed, so that its exit code and last words are known, before it is killed.
const ExitDelay = 3 * time.Second
