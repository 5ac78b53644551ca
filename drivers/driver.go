package drivers

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"os/exec"
)

// Driver starts worker processes and links them to the host. C is the driver's type of
// channel. By it the compiler knows what a client of this driver can do.
//
// A driver's options are the fields of the type that implements Driver; its
// zero value is useful. The type also implements [Acceptor], for the worker's
// side of the link.
type Driver[C Channel] interface {
	// Name is the short name that host and worker agree on, such as "socket".
	Name() string
	// Capabilities says what channels of this driver can do.
	Capabilities() Capabilities
	// Spawn starts cmd and returns when both sides have all that the link needs, and
	// know so. It ends when ctx does. After an error no process, descriptor or file is
	// left. An error wraps [ipc.ErrExhausted] if either side is short of a resource.
	Spawn(ctx context.Context, cmd *Command) (C, error)
}

// Command is what a [Driver] starts: the user's command and what its worker is
// told. A driver uses each Command once and may change it.
type Command struct {
	// Cmd was cloned from the user's template and has not been started.
	Cmd *exec.Cmd
	// Startup is what the worker will find in [Startup]. The driver fills in
	// Driver, Control, HostAlive, Program, Address and DriverData.
	Startup StartupData
	// Resources bound what the process may use.
	Resources Resources
	// Checksum, if not nil, is the SHA-256 that the program's file has to have. A
	// program with another is not started: the error is a [*ipc.ChecksumError].
	Checksum *[sha256.Size]byte
	// Output, if not nil, gets the lines that the process writes to those of
	// stdout and stderr that Cmd leaves nil.
	Output *slog.Logger
	// Hint, if not empty, is a question for the error of a process that says neither
	// hello nor why not.
	Hint string
	// Logger is for what happens in the driver on the host's side and no error
	// reports. If it is nil the driver logs nothing.
	Logger *slog.Logger
	// Started, if set, is called when the process has been started, before its
	// hello.
	Started func(pid int)
}

// Resources bound what a worker's process may use. A field that is 0 or false
// sets no bound. The options of package worker explain the bounds.
type Resources struct {
	Memory      int64 // in bytes
	CPUs        int
	Files       int // open at a time
	NoCoreDumps bool
}

// Acceptor is the worker's side of a driver.
type Acceptor interface {
	// Name is the driver's name, as in [Driver].
	Name() string
	// Capabilities says what the links of this driver can do, as in [Driver].
	Capabilities() Capabilities
	// Open prepares the worker's end as s says. log is for what happens in the
	// endpoint and no error reports. If it is nil the endpoint logs nothing.
	Open(s *StartupData, log *slog.Logger) (Endpoint, error)
}

// Endpoint is a worker's end of a driver: it yields a link for each time that
// a host connects.
type Endpoint interface {
	// Accept waits for a host, exchanges hellos with it and returns the link.
	// An endpoint whose driver cannot reconnect yields one link only and then
	// fails with an error that wraps [ipc.ErrPeerGone].
	Accept(ctx context.Context, local Hello) (Link, error)
	// Close releases what the endpoint holds; links live on.
	Close() error
}
