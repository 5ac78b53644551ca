package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/internal/rendezvous"
)

// Dialled is a connection to a service that has not heard our hello.
type Dialled struct {
	Conn  *net.UnixConn
	Local drivers.Hello // to be said
	// Peer is what the system says of the process that listens.
	Peer drivers.Credentials
}

// Dial connects to a service, and calls link to make the link. Until link has returned the
// connection ends with ctx.
func Dial[L drivers.Link](ctx context.Context, name string, o drivers.DialOptions, kind Kind, link func(Dialled) (L, error)) (drivers.Link, error) {
	local := o.Hello
	if err := errors.Join(process.Identify(), process.CompleteLimits(kind.Name, &local.MaxMessage, &local.Window)); err != nil {
		return nil, err
	}
	var options rendezvous.DialOptions
	if o.Allow != nil {
		options.Allow = func(p rendezvous.Peer) error { return o.Allow(drivers.Credentials(p)) }
	}
	conn, peer, err := rendezvous.Dial(ctx, name, options)
	if err != nil {
		return nil, err
	}
	stop := endWith(ctx, conn)
	l, err := link(Dialled{Conn: conn, Local: process.Hello(local, kind.Name, kind.Layout), Peer: drivers.Credentials(peer)})
	over := stop()
	if over != nil && err == nil {
		l.Close()
	}
	if over != nil {
		err = over
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("tandem: dial %s: %w", name, process.Shortage(err))
	}
	return l, nil
}

var past = time.Unix(1, 0)

// endWith ends what waits for conn when ctx ends, until stop is called, which returns the cause if
// that has happened.
func endWith(ctx context.Context, conn *net.UnixConn) (stop func() error) {
	off := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	return func() error {
		if !off() {
			return context.Cause(ctx)
		}
		return nil
	}
}
