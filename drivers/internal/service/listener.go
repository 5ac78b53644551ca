// Package service makes the links of services of connections between processes that did not
// start each other. What the drivers have in common is here.
package service

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/internal/rendezvous"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// Kind is what the drivers differ in.
type Kind struct {
	// Name, Capabilities and Layout are the driver's.
	Name         string
	Capabilities drivers.Capabilities
	Layout       int
	// Link makes the link of a client.
	Link func(*Arrival) (drivers.Link, error)
}

// Arrival is a client whose hello has come, and that waits for ours.
type Arrival struct {
	Conn          *net.UnixConn
	Local, Remote drivers.Hello // which agree
	// Files came with the hello. Those that are used have to be copied, or mapped, before Link returns.
	Files []*os.File
	// Peer is what the system says of the client.
	Peer drivers.Credentials

	admit func() error
}

// Admit takes a client's place. Link calls it before it says hello, so that the client can still be
// told if there is none.
func (a *Arrival) Admit() error { return a.admit() }

// Listener is a [drivers.Listener].
type Listener struct {
	kind Kind
	gate rendezvous.Gate
	l    *rendezvous.Listener

	handing   sync.Mutex // held while a successor takes the listener over
	takenOver chan struct{}
}

var _ drivers.Listener = (*Listener)(nil)

// Listen listens as cfg says.
func Listen(name string, cfg drivers.ListenConfig, kind Kind) (*Listener, error) {
	if err := process.Identify(); err != nil {
		return nil, err
	}
	l := &Listener{
		kind: kind, takenOver: make(chan struct{}),
		gate: rendezvous.Gate{
			MaxClients: cfg.MaxClients, MaxPerUser: cfg.MaxPerUser, MaxHellos: cfg.MaxHellos,
			HelloTimeout: cfg.HelloTimeout, Log: cfg.Logger,
		},
	}
	if cfg.Allow != nil {
		l.gate.Allow = func(p rendezvous.Peer) error { return cfg.Allow(drivers.Credentials(p)) }
	}
	var err error
	l.l, err = open(name, cfg)
	return l, err
}

// open opens the socket that cfg asks for.
func open(name string, cfg drivers.ListenConfig) (*rendezvous.Listener, error) {
	ways := 0
	for _, given := range []bool{cfg.TakeOver, cfg.File != nil, cfg.Activated} {
		if given {
			ways++
		}
	}
	switch {
	case ways > 1:
		return nil, errors.New("tandem: listen: ListenConfig has more than one of TakeOver, File and Activated")
	case cfg.File != nil:
		return rendezvous.FromFile(cfg.File, name)
	case cfg.Activated:
		return rendezvous.Activated(name)
	case cfg.TakeOver:
		return takeOver(name, cfg)
	}
	return rendezvous.Listen(name, rendezvous.ListenOptions{Mode: cfg.Mode})
}

// Driver returns the name of the driver.
func (l *Listener) Driver() string { return l.kind.Name }

// Capabilities returns what the links can do.
func (l *Listener) Capabilities() drivers.Capabilities { return l.kind.Capabilities }

// Addr returns where the listener listens.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.l.Path(), Net: "unix"} }

// TakenOver implements [drivers.Listener].
func (l *Listener) TakenOver() <-chan struct{} { return l.takenOver }

// File implements [drivers.Listener].
func (l *Listener) File() (*os.File, error) { return l.l.File() }

// Close implements [drivers.Listener].
func (l *Listener) Close() error { return l.l.Close() }

// Serve implements [drivers.Listener].
func (l *Listener) Serve(ctx context.Context, agree func(remote drivers.Hello) (local drivers.Hello, err error), serve func(context.Context, drivers.Link)) error {
	// Who dials while the clients leave is not to wait for them.
	stop := context.AfterFunc(ctx, func() { _ = l.l.Close() })
	defer stop()
	err := rendezvous.Serve(ctx, l.l, l.gate, func(ctx context.Context, c *rendezvous.Client) {
		link, err := l.arrive(c, agree)
		if err != nil {
			if ctx.Err() == nil { // else it is no news to the client that we are gone
				c.Refuse(process.Shortage(err))
			}
			return
		}
		if link != nil {
			serve(ctx, link)
		}
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// arrive makes the link of a connection. It returns nil if the connection is not that of a client.
func (l *Listener) arrive(c *rendezvous.Client, agree func(drivers.Hello) (drivers.Hello, error)) (_ drivers.Link, err error) {
	from := fdpass.Reader{Conn: c.Conn}
	defer func() {
		if err != nil {
			from.Discard() // whatever they are, their close may block
		}
		from.Close()
	}()
	remote, err := drivers.ReadHello(&from)
	if err != nil {
		return nil, err
	}
	if remote.Driver == successor {
		return nil, l.handOver(c, remote)
	}
	local, err := agree(remote)
	if err != nil {
		return nil, err
	}
	if err := process.CompleteLimits(l.kind.Name, &local.MaxMessage, &local.Window); err != nil {
		return nil, err
	}
	local = process.Hello(local, l.kind.Name, l.kind.Layout)
	if err := drivers.Agree(local, remote); err != nil {
		return nil, err
	}
	link, err := l.kind.Link(&Arrival{
		Conn: c.Conn, Local: local, Remote: remote, Files: from.Files, Peer: drivers.Credentials(c.Peer), admit: c.Admit,
	})
	if err != nil {
		return nil, err
	}
	if err := c.Established(); err != nil {
		link.Close()
		return nil, err
	}
	return link, nil
}
