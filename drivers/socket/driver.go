package socket

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/internal/reserve"
	"github.com/tandemipc/tandem/ipc"
)

const (
	driverName = "socket"
	importPath = "github.com/tandemipc/tandem/drivers/socket"

	// layoutVersion is that of the framing in the package's comment.
	layoutVersion = 1
)

func init() { drivers.Register(Driver{}) }

var (
	_ drivers.Driver[*Channel] = Driver{}
	_ drivers.Acceptor         = Driver{}
)

// Driver starts workers that are linked by Unix sockets. Its zero value is
// useful. It is a plain value: methods do not change it, and it may be used by
// many goroutines and for any number of workers, save that a Path serves one
// worker at a time.
type Driver struct {
	// Path is where the worker listens for a host that connects again. It is
	// made absolute, and may be at most 107 bytes long on Linux and 103 on the
	// BSDs and macOS, as the systems' addresses allow. Its directory has to exist
	// and to be readable. A socket that a dead process of the worker's user left
	// there is replaced; anything else there is an error. The worker removes the
	// file when it ends, or else the host does.
	//
	// If empty, a worker has no path: host and worker share a socket over which
	// the host passes each later connection. Only a detached worker has to be
	// found by other processes. It listens in a new directory that only its user
	// can enter: in XDG_RUNTIME_DIR if that is the user's alone, and otherwise in
	// TMPDIR or /tmp.
	Path string
	// Detached gives the worker a session of its own and lets it outlive the
	// host. Its stdin, stdout and stderr have to be files; what else was set
	// is replaced by the null device. [Channel.Detach] gives it up, and [Attach]
	// finds it again. Any other worker ends with the process that started it.
	Detached bool
	// OnDisconnect says what becomes of a detached worker whose host's process
	// has ended without Detach. KeepAlive is for detached workers only.
	OnDisconnect OnDisconnect
	// HostTimeout bounds how long a detached worker waits for a host, after
	// Disconnect or Detach or the end of its host, and then ends; 0 means no timeout.
	// It takes the place of worker.WithHostTimeout, which is for any other worker.
	HostTimeout time.Duration
	// SecondHost says what becomes of a host that connects while another one is
	// served.
	SecondHost SecondHost
	// Connect says how [Channel.Reconnect] tries.
	Connect Connect
}

// OnDisconnect is what a detached worker does when its host's process has ended
// without [Channel.Detach].
type OnDisconnect uint8

const (
	// Shutdown: the worker ends in good order: the contexts of its handlers end,
	// and Serve returns an error that wraps [ipc.ErrPeerGone]. A host that waits in
	// the queue is served first.
	Shutdown OnDisconnect = iota
	// KeepAlive: the worker waits for another host, for Driver.HostTimeout.
	KeepAlive
)

// SecondHost is what a worker does with a host that connects while another one
// is served.
type SecondHost uint8

const (
	// Refuse: the second host gets an [*ipc.RefusedError].
	Refuse SecondHost = iota
	// Queue: the second host waits until the first one disconnects or its own context
	// ends. Up to eight wait, in the order in which they came; more are refused.
	Queue
)

// Name returns "socket".
func (Driver) Name() string { return driverName }

// Capabilities returns Reconnect and Detach.
func (Driver) Capabilities() drivers.Capabilities {
	return drivers.Capabilities{Reconnect: true, Detach: true}
}

// options are the options of the driver that the worker has to know.
type options struct {
	// Private: the worker makes the directory of the socket, and removes it.
	Private bool `cbor:"1,keyasint,omitempty"`
	// The others are as in Driver.
	Detached     bool         `cbor:"2,keyasint,omitempty"`
	OnDisconnect OnDisconnect `cbor:"3,keyasint,omitempty"`
	SecondHost   SecondHost   `cbor:"4,keyasint,omitempty"`
	// Handover is the number of the inherited descriptor over which the host
	// passes connections, if the worker has no path.
	Handover int `cbor:"5,keyasint,omitempty"`
}

// check returns an error that names the first field that is out of range, or that
// contradicts another one.
func (d Driver) check() error {
	switch {
	case d.OnDisconnect > KeepAlive:
		return fmt.Errorf("tandem: socket: Driver.OnDisconnect is %d, use socket.Shutdown or socket.KeepAlive", d.OnDisconnect)
	case d.SecondHost > Queue:
		return fmt.Errorf("tandem: socket: Driver.SecondHost is %d, use socket.Refuse or socket.Queue", d.SecondHost)
	case d.HostTimeout < 0:
		return fmt.Errorf("tandem: socket: Driver.HostTimeout is %v, need 0 or more", d.HostTimeout)
	case d.OnDisconnect == KeepAlive && !d.Detached:
		return errors.New("tandem: socket: Driver.OnDisconnect is KeepAlive, and Driver.Detached is false: no other worker outlives its host")
	case d.HostTimeout > 0 && !d.Detached:
		return errors.New("tandem: socket: Driver.HostTimeout is set, and Driver.Detached is false: use worker.WithHostTimeout")
	}
	return d.Connect.check()
}

// Spawn starts cmd and returns when the worker listens and has sent its hello, or
// when ctx ends. A field that is out of range or contradicts another one, and a Path
// that is too long or in use, are errors before anything is started; so is a system
// without Unix sockets, and then the error wraps [ipc.ErrUnsupported]. After an
// error no process, descriptor or file is left.
func (d Driver) Spawn(ctx context.Context, cmd *drivers.Command) (*Channel, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	if err := supported(); err != nil {
		return nil, err
	}
	err := process.CompleteLimits(driverName, &cmd.Startup.MaxMessage, &cmd.Startup.Window)
	if err != nil {
		return nil, err
	}
	at := newSite(place{}, process.UID(cmd.Cmd.SysProcAttr))
	switch {
	case d.Path != "":
		at.place, err = userPlace(d.Path, at.uid)
	case d.Detached:
		cleanUp()
		at.place, err = privatePlace(at.uid)
	}
	if err != nil {
		return nil, process.Shortage(err)
	}
	if at.path == "" {
		return d.spawn(ctx, cmd, at)
	}
	var spare reserve.Reserve // for what a start that fails has left
	defer spare.Close()
	if err := spare.Fill(discardPairs); err != nil {
		return nil, err
	}
	c, err := d.spawn(ctx, cmd, at)
	if err != nil {
		spare.Close()
		at.discard()
	}
	return c, err
}

// discardPairs is how many pairs of descriptors site.discard takes, at most: for a directory
// and its parent, twice for the former, and two for a connection.
const discardPairs = 3

// spawn starts cmd, whose worker is to listen at a site. If that has no path,
// the worker gets its connections by a handover.
func (d Driver) spawn(ctx context.Context, cmd *drivers.Command, at *site) (*Channel, error) {
	s := &cmd.Startup
	s.Driver, s.Address = driverName, at.path
	if s.Import == "" {
		s.Import = importPath
	}
	if d.Detached {
		s.Timeouts.Host = d.HostTimeout
	}
	if err := process.Identify(); err != nil {
		return nil, err
	}
	local := process.Hello(drivers.Hello{Codec: s.Codec, MaxMessage: s.MaxMessage, Window: s.Window}, driverName, layoutVersion)
	var h *handover
	inherit := func(add func(*os.File) int) (err error) {
		opts := options{Private: at.private, Detached: d.Detached, OnDisconnect: d.OnDisconnect, SecondHost: d.SecondHost}
		if at.path == "" {
			if h, opts.Handover, err = newHandover(add); err != nil {
				return err
			}
		}
		if s.DriverData, err = ipc.CBOR.Append(nil, opts); err != nil {
			return fmt.Errorf("tandem: socket: encode options: %w", err)
		}
		return nil
	}
	var l *link
	p, _, err := process.Spawn(ctx, cmd, process.Options{Detached: d.Detached, Inherit: inherit}, func(conn netConn) error {
		remote, err := exchange(conn, local)
		if err != nil {
			return err
		}
		if at.path != "" {
			if err = at.identify(); err != nil {
				return err
			}
		}
		if l, err = newLink(conn, local, remote, hostSide); err == nil {
			l.credentials = process.Credentials(cmd.Cmd.SysProcAttr)
		}
		return err
	})
	if err != nil {
		if h != nil {
			h.close()
		}
		return nil, err
	}
	program := cmd.Cmd.Path
	if len(cmd.Cmd.Args) > 0 {
		program = cmd.Cmd.Args[0]
	}
	c := &Channel{proc: p, connect: d.Connect, log: orDiscard(cmd.Logger), local: local, site: at, handover: h, link: l, credentials: l.credentials, ref: Ref{
		Path: at.path, Private: at.private,
		PID: p.Locate(l.peer), StartTime: l.peer.StartTime, Nonce: l.peer.Nonce, UID: at.uid,
		Program: program[max(0, len(program)-maxProgram):],
		Codec:   s.Codec, MaxMessage: s.MaxMessage, Window: s.Window, Timeouts: s.Timeouts, Detached: d.Detached, Resume: s.Resume,
	}}
	c.init()
	c.begin()
	return c, nil
}
