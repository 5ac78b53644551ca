// Peers runs the same echo over the libraries that one would use instead, side by
// side with the drivers of this module, and writes the same tables, JSON and page
// as bench:
//
//	go -C bench/peers run . [flags] [scenario ...]
//
// Those of Go connect two processes over a Unix socket in a directory that only the
// user can enter. Each peer is in a file of its own, with how it is configured and
// where that is recommended. Scenario raw compares with programs of other languages,
// which are beside, each in a directory of its own.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/rings"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

func main() {
	serveGoPlugin() // does not return in the process that it is for
	worker.Main(suite.EntryName, func() error { return suite.Serve(register) })
	os.Exit(program().Main(os.Args[1:], os.Stdout, os.Stderr))
}

// A peer is a library that can echo bytes to another process.
type peer struct {
	name string
	// codec is how it carries bytes: raw where it takes them as they are.
	codec string
	// serve echoes what comes over connections that l accepts, until it is closed.
	// It runs in a worker.
	serve func(l net.Listener) error
	// dial connects to a server for so many callers.
	dial func(ctx context.Context, path string, callers int) (client, error)
	// start replaces serve and dial where the library starts the other process
	// itself, which ends with the client. Sockets belong into dir.
	start func(ctx context.Context, dir string) (suite.Meter, client, error)
	// most is the largest payload, in bytes, that it takes.
	most int
}

type client interface {
	// Echo returns the call of one of the callers.
	Echo(caller int) suite.Echo
	Close() error
}

var peers = []peer{netRPC, netHTTP, grpcPeer, goPlugin, ttrpcPeer, shmipcPeer, drpcPeer}

func program() *suite.Program {
	subjects := slices.Clone(suite.Drivers)
	for _, p := range peers {
		subjects = append(subjects, p.name)
	}
	const about = `A peer's server echoes bytes in its handler and allocates and copies as the library makes it do; ` +
		`each library is configured as its own documentation recommends for speed. Included: the call, the way there and back, ` +
		`the handler. Not included: connecting, making the request and comparing the response. `
	return &suite.Program{
		Name:  "peers",
		Title: "Tandem and other libraries: the same echo between two processes",
		Scenarios: []suite.Scenario{
			{
				Name: "call", Title: "round trip of one caller", Subjects: subjects,
				About: about + `One call after the other. MB/s counts both directions.`,
				Plan:  func(o *suite.Options) (suite.Plan, error) { return plan(o, "call") },
			},
			{
				Name: "concurrent", Title: "1 to 64 callers", Subjects: subjects,
				About: about + `Calls of 64 bytes, callers that each make one call after the other, over one connection, ` +
					`but for drpc and net/http, which have a connection for each caller since one carries one call at a time, ` +
					`and shmipc, which has a stream for each.`,
				Plan: func(o *suite.Options) (suite.Plan, error) { return plan(o, "concurrent") },
			},
			streamsScenario(),
			connectionsScenario(),
			rawScenario(),
		},
		Targets: targets(),
	}
}

func plan(o *suite.Options, scenario string) (suite.Plan, error) {
	pool := new(pool)
	p := suite.Plan{Close: pool.close}
	sizes := suite.Given(o, o.Sizes, []int{64, 512, 4 << 10, 64 << 10, 1 << 20}, []int{64, 4 << 10, 64 << 10})
	callers := []int{1}
	if scenario == "concurrent" {
		sizes = suite.Given(o, o.Sizes, []int{64}, []int{64})
		callers = suite.Given(o, o.Callers, []int{1, 8, 64}, []int{1, 8, 64})
	}
	for _, size := range sizes {
		for _, n := range callers {
			var g suite.Group
			add := func(subject, wait, codec string, start func(context.Context) (suite.Meter, client, error)) {
				g.Cases = append(g.Cases, suite.Case{
					Result: report.Result{Scenario: scenario, Subject: subject, Wait: wait, Codec: codec, Bytes: new(size), Callers: n},
					Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
						w, c, err := start(ctx)
						if err != nil {
							return measure.Sample{}, err
						}
						return suite.Load{Worker: w, Callers: n, Bytes: 2 * size, New: func(i int) suite.Operation {
							return suite.NewEcho(c.Echo(i), size)
						}}.Run(ctx, d)
					},
				})
			}
			for _, way := range suite.Ways(o, []string{"adaptive"}, []string{"adaptive"}) {
				add(way.Subject, way.Wait, "raw", func(ctx context.Context) (suite.Meter, client, error) { return pool.driver(ctx, way) })
			}
			for _, peer := range peers {
				if !o.Wants(peer.name) {
					continue
				}
				if size > peer.most {
					p.Skipped = append(p.Skipped, fmt.Sprintf("%s with %s, which is more than it takes", peer.name, report.Size(size)))
					continue
				}
				add(peer.name, "", peer.codec, func(ctx context.Context) (suite.Meter, client, error) {
					return pool.peer(ctx, peer, slices.Max(callers))
				})
			}
			p.Groups = append(p.Groups, g)
		}
	}
	return p, nil
}

// What the workers do.
var (
	echo = ipc.NewMethod[[]byte, []byte]("peers.echo", ipc.WithCodec(ipc.Raw))
	// echoInPlace is echo in place.
	echoInPlace = ipc.NewMethod[[]byte, []byte]("peers.inplace", ipc.WithCodec(ipc.Raw))
	// serve starts a peer's server, which listens when it answers.
	serve = ipc.NewMethod[serveRequest, struct{}]("peers.serve")
)

type serveRequest struct{ Peer, Path string }

func register(s *worker.Server) {
	worker.Handle(s, echo, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	worker.HandleInPlace(s, echoInPlace, func(_ context.Context, call worker.InPlace) error {
		call.Reply(call.Request())
		return nil
	})
	worker.Handle(s, answerBuffer, answerWithBuffer)
	registerStreams(s)
	registerConnections(s)
	rings.Handle(s)
	worker.Handle(s, serve, func(_ context.Context, r serveRequest) (struct{}, error) {
		i := slices.IndexFunc(peers, func(p peer) bool { return p.name == r.Peer && p.serve != nil })
		if i < 0 {
			return struct{}{}, fmt.Errorf("no peer %q", r.Peer)
		}
		l, err := net.Listen("unix", r.Path)
		if err != nil {
			return struct{}{}, err
		}
		go func() {
			err := peers[i].serve(l)
			fmt.Fprintf(os.Stderr, "the server of %s ended: %v\n", r.Peer, err)
			os.Exit(1) // which the host notices
		}()
		return struct{}{}, nil
	})
}

// driverClient calls over a driver of this module.
type driverClient struct{ w *suite.Worker }

func (c driverClient) Echo(int) suite.Echo {
	return func(ctx context.Context, b []byte) ([]byte, error) { return echo.Call(ctx, c.w, b) }
}

func (c driverClient) Close() error { return nil }

// pool keeps what was started.
type pool struct {
	mu      sync.Mutex
	dir     string
	started map[string]*started
}

type started struct {
	meter  suite.Meter
	client client
	worker *suite.Worker // nil where the process ends with the client
}

func (p *pool) get(name string, start func() (*started, error)) (suite.Meter, client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.started[name]
	if s == nil {
		var err error
		if s, err = start(); err != nil {
			return nil, nil, err
		}
		if p.started == nil {
			p.started = make(map[string]*started)
		}
		p.started[name] = s
	}
	return s.meter, s.client, nil
}

func (p *pool) driver(ctx context.Context, way suite.Way) (suite.Meter, client, error) {
	return p.get(way.String(), func() (*started, error) {
		w, err := suite.StartWay(ctx, way, 0)
		if err != nil {
			return nil, err
		}
		return &started{w, driverClient{w}, w}, nil
	})
}

// makeDir makes the directory for sockets, if there is none yet.
func (p *pool) makeDir() (err error) {
	if p.dir == "" {
		p.dir, err = os.MkdirTemp("", "tandem-peers-")
	}
	return err
}

// peer starts the other process of a peer: its own, or else a worker, over a socket
// that sleeps while it is measured, and the peer's server in it.
func (p *pool) peer(ctx context.Context, peer peer, callers int) (suite.Meter, client, error) {
	return p.get(peer.name, func() (*started, error) {
		if err := p.makeDir(); err != nil {
			return nil, err
		}
		if peer.start != nil {
			m, c, err := peer.start(ctx, p.dir)
			if err != nil {
				return nil, fmt.Errorf("start %s: %w", peer.name, err)
			}
			return &started{meter: m, client: c}, nil
		}
		w, err := suite.Start(ctx, peer.name, socket.Driver{}, nil)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(p.dir, strings.ReplaceAll(peer.name, "/", "-")+".sock")
		if _, err = serve.Call(ctx, w, serveRequest{peer.name, path}); err == nil {
			var c client
			if c, err = peer.dial(ctx, path, callers); err == nil {
				return &started{w, c, w}, nil
			}
		}
		err = w.Blame(fmt.Errorf("connect to %s: %w", peer.name, err))
		_ = w.Close() // the first error says more
		return nil, err
	})
}

func (p *pool) close() {
	for name, s := range p.started {
		// The servers end with their process, whatever they think of it.
		_ = s.client.Close()
		if s.worker == nil {
			continue
		}
		if err := s.worker.Close(); err != nil {
			fmt.Fprintf(os.Stderr, "end the worker of %s: %v\n", name, err)
		}
	}
	if p.dir != "" {
		_ = os.RemoveAll(p.dir) // is in the system's directory for such
	}
}
