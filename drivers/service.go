package drivers

import (
	"context"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"time"
)

// Dialer is a driver that can reach a service: a process that it has not started, and that
// listens under a name.
type Dialer interface {
	// Name and Capabilities are as in [Driver].
	Name() string
	Capabilities() Capabilities
	// Dial connects to the service of this name, exchanges hellos with it and returns the link. It
	// ends when ctx does, and leaves nothing after an error. The code of the error is
	// CodeUnavailable ([ipc.CodeOf]) if nobody listens there and CodePermissionDenied if the
	// service may not be ours or this process not its client. The error wraps an
	// [*ipc.RefusedError] if the service does not take this client, an [*ipc.MismatchError] if this
	// side finds that the two do not agree, and [ipc.ErrExhausted] if a side is short of a
	// resource.
	Dial(ctx context.Context, name string, o DialOptions) (Link, error)
}

// DialOptions are what [Dialer.Dial] has to know.
type DialOptions struct {
	// Hello has the fields that are not the driver's own: Codec, MaxMessage, Window, CallTimeout.
	Hello Hello
	// Allow decides whether the process that listens may be the service; nil allows the processes of
	// the effective user of this one.
	Allow func(Credentials) error
}

// Listener is where the clients of a service arrive. A driver makes it, with its Listen.
// Its methods are safe for concurrent use.
type Listener interface {
	// Driver is the name of the driver, as in [Driver], and Capabilities what its links can do.
	Driver() string
	Capabilities() Capabilities
	// Addr is where the listener listens.
	Addr() net.Addr
	// Serve accepts clients until ctx ends, the listener is closed, or another process takes it
	// over, and returns when all calls of serve have returned. For each process that may be a
	// client it calls agree with that process's hello, which returns ours, with the fields that are
	// not the driver's own, or why there is no link. Then it calls serve with the link, in a
	// goroutine of its own. serve closes the link; the client counts as one until serve has
	// returned. The context of serve ends with ctx, and when the listener fails; serve is to return
	// then, and after TakenOver. The error is nil unless the listener fails. Serve is called once.
	Serve(ctx context.Context, agree func(remote Hello) (local Hello, err error), serve func(context.Context, Link)) error
	// TakenOver is closed when another process has taken the listener over: see [ListenConfig].TakeOver.
	TakenOver() <-chan struct{}
	// File returns a copy of the socket that listens, for a process that is to go on listening
	// with [ListenConfig].File. The caller closes it.
	File() (*os.File, error)
	// Close stops listening, and removes the socket's file, unless that is another process's by
	// now. Links live on.
	Close() error
}

// ListenConfig says how to listen, and who may be a client. The zero value lets the processes of
// the effective user of this one in.
type ListenConfig struct {
	// Mode is that of the socket's file, whatever the umask is; 0 means 0600. To let other users in
	// takes a mode that lets them write, a directory that they can enter, and Allow. Abstract
	// sockets have no mode.
	Mode fs.FileMode
	// Allow decides whether a process may be a client; nil allows those of the effective user of
	// this process. It is called for several connections at once, and has to return within
	// HelloTimeout. Its error is logged; the client learns that it is not allowed, and no more.
	Allow func(Credentials) error
	// MaxClients bounds the clients at a time; 0 means 1024. MaxPerUser bounds those of one user; 0 means
	// that only MaxClients does. Others are refused at once, with an error that wraps [ipc.ErrExhausted].
	MaxClients, MaxPerUser int
	// MaxHellos bounds the connections that have not said hello yet; 0 means 128. One process has at
	// most half of them.
	MaxHellos int
	// HelloTimeout bounds how long a connection may take to become a client; 0 means 5 s.
	HelloTimeout time.Duration

	// TakeOver takes the listener over from the process that listens under the name now, if there
	// is one, for a restart that no client notices. That process has to run as the same user. It
	// goes on until this one listens; then its Serve ends in good order ([Listener].TakenOver). No
	// client that connects meanwhile is turned away. The socket's file keeps its mode. Of two that
	// take a listener over at once, one may get an error.
	TakeOver bool
	// File, if set, is a Unix stream socket that listens already: this process has inherited it.
	// The name is where it was bound, or "" if Close is to leave the file. The file stays the caller's.
	File *os.File
	// Activated takes a socket that a service manager such as systemd has opened for this process
	// (LISTEN_FDS). Then the name is its name (FileDescriptorName=), or its number, counted from 0,
	// or "" if there is one only. The first use removes the variables from the environment.
	Activated bool

	// Logger gets a line for what was refused, one in a second at most. If it is nil nothing is logged.
	Logger *slog.Logger
}

// Service is a process that listens in the directory of services.
type Service struct {
	// Name is the name to dial.
	Name string
	// Path is that of its socket.
	Path string
	// PID is the process that listens, 0 if that is not known.
	PID int
}
