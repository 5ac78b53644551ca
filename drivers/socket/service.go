package socket

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/internal/rendezvous"
	"github.com/tandemipc/tandem/drivers/internal/service"
	"github.com/tandemipc/tandem/ipc"
)

var _ drivers.Dialer = Driver{}

// Listen listens under a name for clients that dial it with this driver, as [Driver.Listen] does with the
// zero Driver and the zero [drivers.ListenConfig].
func Listen(name string) (drivers.Listener, error) {
	return Driver{}.Listen(name, drivers.ListenConfig{})
}

// Listen listens under a name for clients that dial it with this driver. worker.Dial explains names, and
// [drivers.ListenConfig] who may be a client. Clients are served by worker.Server.ServeListener. The fields
// of the Driver are about workers, and have to be zero.
//
// The error wraps [syscall.EADDRINUSE] if a process listens there, and [ipc.ErrUnsupported] on a system without
// Unix sockets. The socket of a process that has ended is replaced.
func (d Driver) Listen(name string, cfg drivers.ListenConfig) (drivers.Listener, error) {
	if err := d.forService(); err != nil {
		return nil, err
	}
	return service.Listen(name, cfg, kind)
}

// Dial connects to a service that listens with this driver. Package worker calls it. The fields of the Driver
// are about workers, and have to be zero.
func (d Driver) Dial(ctx context.Context, name string, o drivers.DialOptions) (drivers.Link, error) {
	if err := d.forService(); err != nil {
		return nil, err
	}
	return service.Dial(ctx, name, o, kind, func(c service.Dialled) (*link, error) {
		remote, err := process.HearFirstHello(c.Conn, c.Local, sendHello(c.Conn, c.Local))
		if err != nil {
			return nil, err
		}
		l, err := newLink(c.Conn, c.Local, remote, clientSide)
		if err != nil {
			return nil, err
		}
		l.credentials = c.Peer
		return l, nil
	})
}

// Services lists the processes that listen in the directory of services. [worker.Services] explains it.
func Services() ([]drivers.Service, error) {
	found, err := rendezvous.Services()
	var all []drivers.Service
	for _, s := range found {
		all = append(all, drivers.Service(s))
	}
	return all, err
}

var kind = service.Kind{Name: driverName, Layout: layoutVersion, Link: answer}

// forService returns an error for options that are about workers.
func (d Driver) forService() error {
	if !reflect.ValueOf(d).IsZero() {
		return errors.New("tandem: socket: a field of the Driver is set, and all of them are about workers: for a service use socket.Driver{}")
	}
	return supported()
}

// answer makes the link of a client.
func answer(a *service.Arrival) (drivers.Link, error) {
	if n := len(a.Files); n > 0 {
		return nil, fmt.Errorf("%w: socket: the client passed %d descriptors with its hello", ipc.ErrProtocol, n)
	}
	if err := a.Admit(); err != nil {
		return nil, err
	}
	if err := sendHello(a.Conn, a.Local); err != nil {
		return nil, err
	}
	l, err := newLink(a.Conn, a.Local, a.Remote, serviceSide)
	if err != nil {
		return nil, err
	}
	l.credentials = a.Peer
	return l, nil
}
