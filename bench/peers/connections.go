package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/netconn"
)

// Scenario connections: what speaks over a net.Conn, over a Unix socket and over package netconn.

const (
	connectionsName = "connections"
	unixName        = "unix"
	connName        = "conn"   // bytes on a connection, there and back
	writesName      = "writes" // of 64 KiB, one way
)

// A speaker is what speaks over connections.
type speaker struct {
	name string
	// serve serves connections of l, in a worker.
	serve func(l net.Listener) error
	// connect returns a client whose connections dial makes.
	connect func(dial func(context.Context) (net.Conn, error)) (client, error)
}

var speakers = []speaker{
	{connName, serveConn, connectConn},
	{netHTTP.name, netHTTP.serve, func(dial func(context.Context) (net.Conn, error)) (client, error) { return newHTTPClient(dial, 1), nil }},
	{grpcPeer.name, grpcPeer.serve, grpcOver},
}

// What the first byte on a connection of serveConn asks for.
const (
	echoBytes byte = 'e'
	sinkBytes byte = 's' // count them until the end, and answer with the number
)

func serveConn(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			b := make([]byte, 64<<10)
			if _, err := io.ReadFull(c, b[:1]); err != nil {
				return
			}
			for sink, total := b[0] == sinkBytes, uint64(0); ; {
				n, err := c.Read(b)
				if total += uint64(n); err == io.EOF && sink {
					_, _ = c.Write(binary.LittleEndian.AppendUint64(nil, total)) // or nobody waits for it
				}
				if err != nil {
					return
				}
				if !sink {
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}
		}()
	}
}

// connClient has one connection for calls, and makes others for writes.
type connClient struct {
	net.Conn
	dial func(context.Context) (net.Conn, error)
}

func connectConn(dial func(context.Context) (net.Conn, error)) (client, error) {
	c, err := dial(context.Background())
	if err != nil {
		return nil, err
	}
	_, err = c.Write([]byte{echoBytes})
	return connClient{c, dial}, err
}

func (c connClient) Echo(int) suite.Echo {
	var response []byte
	return func(_ context.Context, b []byte) ([]byte, error) {
		if _, err := c.Write(b); err != nil {
			return nil, err
		}
		response = slices.Grow(response[:0], len(b))[:len(b)]
		_, err := io.ReadFull(c, response)
		return response, err
	}
}

// write writes for about d, and returns how many bytes the other side has read.
func (c connClient) write(ctx context.Context, size int, d time.Duration) (total int64, err error) {
	w, err := c.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	if _, err := w.Write([]byte{sinkBytes}); err != nil {
		return 0, err
	}
	b := make([]byte, size)
	for began := measure.Now(); measure.Now()-began < d; {
		n, err := w.Write(b)
		if total += int64(n); err != nil {
			return total, err
		}
	}
	if err := w.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return total, err
	}
	var read [8]byte
	if _, err := io.ReadFull(w, read[:]); err != nil {
		return total, err
	}
	if n := binary.LittleEndian.Uint64(read[:]); n != uint64(total) {
		return total, fmt.Errorf("%d bytes were written, and %d were read", total, n)
	}
	return total, nil
}

// serveOver starts the server of a speaker: on a Unix socket if Path is set, or else over the link.
var serveOver = ipc.NewMethod[serveRequest, struct{}]("peers.serve_over")

func registerConnections(s *worker.Server) {
	worker.Handle(s, serveOver, func(_ context.Context, r serveRequest) (struct{}, error) {
		i := slices.IndexFunc(speakers, func(sp speaker) bool { return sp.name == r.Peer })
		if i < 0 {
			return struct{}{}, fmt.Errorf("no speaker %q", r.Peer)
		}
		var l net.Listener
		if r.Path == "" {
			l = netconn.Listen(s, r.Peer)
		} else {
			var err error
			if l, err = net.Listen("unix", r.Path); err != nil {
				return struct{}{}, err
			}
		}
		go func() {
			err := speakers[i].serve(l)
			fmt.Fprintf(os.Stderr, "the server of %s ended: %v\n", r.Peer, err)
			os.Exit(1) // which the host notices
		}()
		return struct{}{}, nil
	})
}

// speaker starts a worker and the server of a speaker in it, and connects over a Unix socket, or
// over the link if way has a subject.
func (p *pool) speaker(ctx context.Context, way suite.Way, sp speaker) (suite.Meter, client, error) {
	return p.get(way.String()+" "+sp.name, func() (*started, error) {
		var w *suite.Worker
		var err error
		request := serveRequest{Peer: sp.name}
		if way.Subject == unixName {
			if err := p.makeDir(); err != nil {
				return nil, err
			}
			request.Path = filepath.Join(p.dir, filepath.Base(sp.name)+".conn.sock")
			w, err = suite.Start(ctx, unixName, socket.Driver{}, nil)
		} else {
			w, err = suite.StartWay(ctx, way, 0)
		}
		if err != nil {
			return nil, err
		}
		if _, err = serveOver.Call(ctx, w, request); err == nil {
			dial := func(ctx context.Context) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", request.Path)
			}
			if request.Path == "" {
				dial = netconn.NewDialer(w, sp.name).Dial
			}
			var c client
			if c, err = sp.connect(dial); err == nil {
				return &started{w, c, w}, nil
			}
		}
		err = w.Blame(fmt.Errorf("connect to %s over %s: %w", sp.name, way, err))
		_ = w.Close() // the first error says more
		return nil, err
	})
}

func connectionsScenario() suite.Scenario {
	return suite.Scenario{
		Name: connectionsName, Title: "connections of package net", Subjects: append([]string{unixName}, suite.Drivers...),
		About: `The same clients and servers over a Unix socket, and over package netconn with each driver: bytes on a connection there and back, ` +
			`net/http and gRPC as in the other scenarios, one call after the other; and writes of 64 KiB on one connection, until the other ` +
			`side has read them, where MB/s counts one direction.`,
		Plan: planConnections,
	}
}

func planConnections(o *suite.Options) (suite.Plan, error) {
	pool := new(pool)
	p := suite.Plan{Close: pool.close}
	ways := suite.Ways(o, []string{"adaptive"}, []string{"adaptive"})
	if o.Wants(unixName) {
		ways = append([]suite.Way{{Subject: unixName}}, ways...)
	}
	for _, sp := range speakers {
		for _, size := range suite.Given(o, o.Sizes, []int{64, 4 << 10}, []int{64}) {
			var g suite.Group
			for _, way := range ways {
				g.Cases = append(g.Cases, suite.Case{Result: connectionsResult(way.Subject, sp.name, size), Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
					w, c, err := pool.speaker(ctx, way, sp)
					if err != nil {
						return measure.Sample{}, err
					}
					return suite.Load{Worker: w, Callers: 1, Bytes: 2 * size, New: func(i int) suite.Operation {
						return suite.NewEcho(c.Echo(i), size)
					}}.Run(ctx, d)
				}})
			}
			p.Groups = append(p.Groups, g)
		}
	}
	const size = 64 << 10
	var g suite.Group
	for _, way := range ways {
		g.Cases = append(g.Cases, suite.Case{Result: connectionsResult(way.Subject, writesName, size), Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
			w, c, err := pool.speaker(ctx, way, speakers[0])
			if err != nil {
				return measure.Sample{}, err
			}
			if _, err := c.(connClient).write(ctx, size, d/10); err != nil { // warm up
				return measure.Sample{}, w.Blame(err)
			}
			return w.Measure(ctx, func(s *measure.Sample) error {
				began := measure.Now()
				n, err := c.(connClient).write(ctx, size, d)
				s.Busy = measure.Now() - began
				s.Ops, s.Bytes = n/size, n
				return err
			})
		}})
	}
	p.Groups = append(p.Groups, g)
	return p, nil
}

// connectionsResult identifies a result of the scenario connections.
func connectionsResult(subject, mode string, size int) report.Result {
	r := report.Result{Scenario: connectionsName, Subject: subject, Mode: mode, Codec: "raw", Bytes: new(size), Callers: 1}
	if subject == shm.Name {
		r.Wait = "adaptive"
	}
	return r
}
