package shm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/peercred"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// endpoint is the worker's end. It yields one link.
type endpoint struct {
	driver Driver

	mu      sync.Mutex
	control *net.UnixConn // nil once it is the link's
}

// Accept exchanges hellos and memory with the host.
func (e *endpoint) Accept(ctx context.Context, local drivers.Hello) (drivers.Link, error) {
	e.mu.Lock()
	control := e.control
	e.control = nil
	e.mu.Unlock()
	if control == nil {
		return nil, fmt.Errorf("%w: driver shm links a worker to its host once", ipc.ErrPeerGone)
	}
	if err := process.CompleteLimits(Name, &local.MaxMessage, &local.Window); err != nil {
		control.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = control.SetDeadline(time.Unix(1, 0)) })
	l, err := e.driver.link(control, process.Hello(local, Name, ring.LayoutVersion))
	if !stop() && err == nil {
		l.Close()
		return nil, ctx.Err()
	}
	if err != nil {
		control.Close()
		return nil, err
	}
	// The host has made the control socket.
	if cred, err := peercred.Of(control); err == nil {
		l.credentials.UID, l.credentials.GID = cred.UID, cred.GID
	}
	l.watch()
	return l, nil
}

// Close releases the control socket if no link has it.
func (e *endpoint) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.control == nil {
		return nil
	}
	err := e.control.Close()
	e.control = nil
	return err
}

// link exchanges hellos and segments over the control socket, and returns when both sides
// have mapped both segments. It is the same on both sides. If it fails the other side
// learns why.
func (d Driver) link(control *net.UnixConn, local drivers.Hello) (*link, error) {
	l, err := d.join(control, local)
	if err != nil {
		err = process.Shortage(err)
		process.Refuse(control, err)
		return nil, err
	}
	if err := process.Confirm(control, Name); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// join exchanges hellos and segments, and makes the link of them.
func (d Driver) join(control *net.UnixConn, local drivers.Hello) (*link, error) {
	var opts []ring.Option
	if d.Prefault {
		opts = append(opts, ring.Prefault())
	}
	ours, err := ring.Create(d.RingSize, opts...)
	if err != nil {
		return nil, fmt.Errorf("tandem: shm: %w", err)
	}
	theirs, remote, err := exchange(control, local, ours, opts)
	if err != nil {
		ours.Close()
		return nil, err
	}
	l, err := newLink(control, ours, theirs, d.Wait, min(local.MaxMessage, remote.MaxMessage), remote)
	if err != nil {
		ours.Close()
		theirs.Close()
		return nil, err
	}
	return l, nil
}

// exchange sends our hello with our memory, receives the peer's hello, compares the
// two, and maps the peer's memory.
func exchange(control *net.UnixConn, local drivers.Hello, ours *ring.Segment, opts []ring.Option) (theirs *ring.Segment, remote drivers.Hello, err error) {
	hello, err := drivers.AppendHello(nil, local)
	if err != nil {
		return nil, drivers.Hello{}, err
	}
	sendErr := fdpass.Send(control, hello, ours.File())
	if sendErr != nil {
		sendErr = fmt.Errorf("tandem: shm: send the hello: %w", sendErr)
	}
	from := fdpass.Reader{Conn: control}
	defer func() {
		if err != nil {
			from.Discard()
		}
		from.Close()
	}()
	remote, err = process.HearFirstHello(&from, local, sendErr)
	if err != nil && len(from.Files) <= 1 { // more are the better reason
		return nil, remote, err
	}
	theirs, err = openTheirs(from.Files, opts)
	if err != nil {
		return nil, remote, err
	}
	// Each side has the mapping that it needs; the peer reads our descriptor
	// from the socket.
	if err := ours.CloseFile(); err != nil {
		theirs.Close()
		return nil, remote, fmt.Errorf("tandem: shm: %w", err)
	}
	return theirs, remote, nil
}

// openTheirs maps the memory that has come with the peer's hello.
func openTheirs(files []*os.File, opts []ring.Option) (*ring.Segment, error) {
	if n := len(files); n != 1 {
		return nil, fmt.Errorf("%w: shm: the other side passed %d descriptors with its hello, not 1", ipc.ErrProtocol, n)
	}
	theirs, err := ring.Open(files[0], opts...)
	switch {
	case errors.Is(err, ring.ErrSeals), errors.Is(err, ring.ErrLayout):
		return nil, fmt.Errorf("%w: shm: the other side's memory: %w", ipc.ErrProtocol, err)
	case err != nil:
		return nil, fmt.Errorf("tandem: shm: the other side's memory: %w", err)
	}
	return theirs, nil
}
