package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// A serviceDriver listens and dials.
type serviceDriver interface {
	drivers.Dialer
	Listen(name string, cfg drivers.ListenConfig) (drivers.Listener, error)
}

func serviceDriverOf(way suite.Way) serviceDriver {
	if way.Subject == shm.Name {
		return shm.Driver{Wait: suite.WaitOf(way.Wait)}
	}
	return socket.Driver{}
}

// servingRequest asks a worker to be a service as well, with the same handlers. As a worker it
// tells its usage, over a link that nobody uses while clients are measured.
type servingRequest struct {
	Way      suite.Way
	Path     string
	TakeOver bool
}

var serving = ipc.NewMethod[servingRequest, struct{}]("bench.serving", ipc.WithCodec(ipc.CBOR))

// mostClients is how many clients a service takes, which is more than any measurement has.
const mostClients = 1 << 16

func registerServices(s *worker.Server) {
	worker.Handle(s, serving, func(_ context.Context, r servingRequest) (struct{}, error) {
		l, err := serviceDriverOf(r.Way).Listen(r.Path, drivers.ListenConfig{TakeOver: r.TakeOver, MaxClients: mostClients})
		if err != nil {
			return struct{}{}, err
		}
		go func() {
			if err := s.ServeListener(context.Background(), l); err != nil {
				fmt.Fprintln(os.Stderr, "the service has ended:", err)
			}
		}()
		return struct{}{}, nil
	})
	worker.Handle(s, clientsHost, hostClients)
	worker.Handle(s, idleClientsHost, hostIdleClients)
}

// service is a process that clients dial.
type service struct {
	*suite.Worker
	way suite.Way
	dir string // where its socket is
}

// startService starts a service.
func startService(ctx context.Context, way suite.Way) (*service, error) {
	dir, err := os.MkdirTemp("", "tandem-bench-")
	if err != nil {
		return nil, err
	}
	s := &service{way: way, dir: dir}
	if s.Worker, err = s.process(ctx, false); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

// process starts a process that listens at the path of s, and takes that over if there is one already.
func (s *service) process(ctx context.Context, takeOver bool) (*suite.Worker, error) {
	w, err := suite.Start(ctx, "service of "+s.way.String(), socket.Driver{}, nil)
	if err != nil {
		return nil, err
	}
	if !takeOver {
		err = s.serve(ctx, w, false)
	}
	if err != nil {
		return nil, errors.Join(w.Blame(err), w.Close())
	}
	return w, nil
}

// serve makes a process listen.
func (s *service) serve(ctx context.Context, w *suite.Worker, takeOver bool) error {
	_, err := serving.Call(ctx, w, servingRequest{s.way, s.path(), takeOver})
	return w.Blame(err)
}

func (s *service) path() string { return filepath.Join(s.dir, "s") }

// Close ends the service.
func (s *service) Close() error {
	return errors.Join(s.Worker.Close(), os.RemoveAll(s.dir))
}

func dialService(ctx context.Context, way suite.Way, path string, opts ...worker.Option) (*worker.ServiceClient, error) {
	return worker.Dial(ctx, path, serviceDriverOf(way), opts...)
}

// dialMany dials so many clients.
func dialMany(ctx context.Context, way suite.Way, path string, n int) (clients []*worker.ServiceClient, err error) {
	for len(clients) < n {
		c, err := dialService(ctx, way, path)
		if err != nil {
			closeClients(clients)
			return nil, fmt.Errorf("client %d: %w", len(clients), err)
		}
		clients = append(clients, c)
	}
	return clients, nil
}

func closeClients(clients []*worker.ServiceClient) {
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() { c.Close() })
	}
	all.Wait()
}

// servicePool keeps services, and what calls them, between cases.
type servicePool struct {
	services map[suite.Way]*service
	clients  map[suite.Way][]*worker.ServiceClient // of this process
	hosts    map[suite.Way][]*suite.Worker         // processes with clients
}

func (p *servicePool) service(ctx context.Context, way suite.Way) (*service, error) {
	if s := p.services[way]; s != nil {
		return s, nil
	}
	s, err := startService(ctx, way)
	if err != nil {
		return nil, err
	}
	if p.services == nil {
		p.services, p.clients, p.hosts = make(map[suite.Way]*service), make(map[suite.Way][]*worker.ServiceClient), make(map[suite.Way][]*suite.Worker)
	}
	p.services[way] = s
	return s, nil
}

// dialled returns a service and so many clients of it, all in this process.
func (p *servicePool) dialled(ctx context.Context, way suite.Way, n int) (*service, []*worker.ServiceClient, error) {
	s, err := p.service(ctx, way)
	if err != nil {
		return nil, nil, err
	}
	if more := n - len(p.clients[way]); more > 0 {
		clients, err := dialMany(ctx, way, s.path(), more)
		if err != nil {
			return nil, nil, s.Blame(err)
		}
		p.clients[way] = append(p.clients[way], clients...)
	}
	return s, p.clients[way][:n], nil
}

// hosted returns a service and so many processes for clients of it.
func (p *servicePool) hosted(ctx context.Context, way suite.Way, n int) (*service, []*suite.Worker, error) {
	s, err := p.service(ctx, way)
	if err != nil {
		return nil, nil, err
	}
	for len(p.hosts[way]) < n {
		w, err := suite.Start(ctx, "clients of "+way.String(), socket.Driver{}, nil)
		if err != nil {
			return nil, nil, err
		}
		p.hosts[way] = append(p.hosts[way], w)
	}
	return s, p.hosts[way], nil
}

// Close ends all of them.
func (p *servicePool) Close() {
	for way, s := range p.services {
		closeClients(p.clients[way])
		var err error
		for _, w := range p.hosts[way] {
			err = errors.Join(err, w.Close())
		}
		if err = errors.Join(err, s.Close()); err != nil {
			// What was measured is complete and correct all the same.
			fmt.Fprintf(os.Stderr, "end the service of %v: %v\n", way, err)
		}
	}
	*p = servicePool{}
}
