package shm

import (
	"context"
	"fmt"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/internal/service"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// DefaultServiceRingSize is the size in bytes of each ring of the link between a service and a
// client, where none is given: a service may have many clients, and most of them are idle.
const DefaultServiceRingSize = 64 << 10

var _ drivers.Dialer = Driver{}

// Listen listens under a name for clients that dial it with this driver, as [Driver.Listen] does with the
// zero Driver and the zero [drivers.ListenConfig].
func Listen(name string) (drivers.Listener, error) {
	return Driver{}.Listen(name, drivers.ListenConfig{})
}

// Listen listens under a name for clients that dial it with this driver. worker.Dial explains
// names, and [drivers.ListenConfig] who may be a client. Clients are served by
// worker.Server.ServeListener; each has rings of its own, so it can harm no other. RingSize is that
// of the service's ring of each client, for its answers; 0 means [DefaultServiceRingSize]. The
// client's own says the size of the other.
//
// The error wraps [syscall.EADDRINUSE] if a process listens there, and [ipc.ErrUnsupported] on a system without
// sealed memory. The socket of a process that has ended is replaced.
func (d Driver) Listen(name string, cfg drivers.ListenConfig) (drivers.Listener, error) {
	d, err := d.forService()
	if err != nil {
		return nil, err
	}
	kind := kind
	kind.Link = func(a *service.Arrival) (drivers.Link, error) {
		l, err := d.answer(a)
		if err != nil {
			return nil, err
		}
		return l, nil
	}
	return service.Listen(name, cfg, kind)
}

// Dial connects to a service that listens with this driver. Package worker calls it. RingSize is that of
// the client's ring, for its requests; 0 means [DefaultServiceRingSize].
func (d Driver) Dial(ctx context.Context, name string, o drivers.DialOptions) (drivers.Link, error) {
	d, err := d.forService()
	if err != nil {
		return nil, err
	}
	return service.Dial(ctx, name, o, kind, func(c service.Dialled) (*link, error) {
		l, err := d.link(c.Conn, c.Local)
		if err != nil {
			return nil, err
		}
		l.credentials = c.Peer
		l.watch()
		return l, nil
	})
}

var kind = service.Kind{Name: Name, Capabilities: Driver{}.Capabilities(), Layout: ring.LayoutVersion}

// forService returns d with its sizes completed for a link of a service, or why it has none.
func (d Driver) forService() (Driver, error) {
	if d.RingSize == 0 {
		d.RingSize = DefaultServiceRingSize
	}
	d, err := d.complete()
	if err == nil {
		err = supported()
	}
	return d, err
}

// answer makes the link of a client. Nothing is allocated for it before it has said hello, with its own memory,
// and has a place.
func (d Driver) answer(a *service.Arrival) (*link, error) {
	var opts []ring.Option
	if d.Prefault {
		opts = append(opts, ring.Prefault())
	}
	theirs, err := openTheirs(a.Files, opts)
	if err != nil {
		return nil, err
	}
	if err := a.Admit(); err != nil {
		theirs.Close()
		return nil, err
	}
	ours, err := ring.Create(d.RingSize, opts...)
	if err != nil {
		theirs.Close()
		return nil, fmt.Errorf("tandem: shm: %w", err)
	}
	l, err := d.introduce(a, ours, theirs)
	if err != nil {
		ours.Close()
		theirs.Close()
		return nil, err
	}
	if err := process.Confirm(a.Conn, Name); err != nil {
		l.Close()
		return nil, err
	}
	l.credentials = a.Peer
	l.watch()
	return l, nil
}

// introduce sends our hello with our memory, and makes the link.
func (d Driver) introduce(a *service.Arrival, ours, theirs *ring.Segment) (*link, error) {
	hello, err := drivers.AppendHello(nil, a.Local)
	if err != nil {
		return nil, err
	}
	if err := fdpass.Send(a.Conn, hello, ours.File()); err != nil {
		return nil, fmt.Errorf("tandem: shm: send the hello: %w", err)
	}
	if err := ours.CloseFile(); err != nil {
		return nil, fmt.Errorf("tandem: shm: %w", err)
	}
	return newLink(a.Conn, ours, theirs, d.Wait, min(a.Local.MaxMessage, a.Remote.MaxMessage), a.Remote)
}
