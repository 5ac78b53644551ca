package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// clientsRequest asks a worker to be so many clients of a service, which all call for a while.
type clientsRequest struct {
	Way     suite.Way
	Path    string
	Clients int
	For     time.Duration
}

type clientsAnswer struct {
	Ops       int64
	Busy      time.Duration
	Latencies []hdrhistogram.Snapshot // of each client
	Usage     measure.Usage
}

var clientsHost = ipc.NewMethod[clientsRequest, clientsAnswer]("bench.clients", ipc.WithCodec(ipc.CBOR))

// hosting are the clients of this process.
var hosting struct {
	mu      sync.Mutex
	clients map[string][]*worker.ServiceClient // by path
}

// hostClients calls, with clients that live until the process ends.
func hostClients(ctx context.Context, r clientsRequest) (a clientsAnswer, err error) {
	hosting.mu.Lock()
	defer hosting.mu.Unlock()
	clients := hosting.clients[r.Path]
	if clients == nil {
		if clients, err = dialMany(ctx, r.Way, r.Path, r.Clients); err != nil {
			return a, err
		}
		hosting.clients = map[string][]*worker.ServiceClient{r.Path: clients}
	}
	load := loadOf(unmeasured{}, inPlace, 64, len(clients), func(i int) ipc.Caller { return clients[i] })
	load.Each = func(h *measure.Histogram) { a.Latencies = append(a.Latencies, *h.Export()) }
	before := measure.Self()
	s, err := load.Run(ctx, r.For)
	a.Ops, a.Busy, a.Usage = s.Ops, s.Busy, measure.Self().Since(before)
	return a, err
}

// unmeasured is a [suite.Meter] for a process that is measured by another one.
type unmeasured struct{}

func (unmeasured) Measure(_ context.Context, f func(*measure.Sample) error) (s measure.Sample, err error) {
	err = f(&s)
	return s, err
}

func (u unmeasured) MeasureMemory(ctx context.Context, f func(*measure.Sample) error) (measure.Sample, error) {
	return u.Measure(ctx, f)
}

func (unmeasured) Blame(err error) error { return err }

// callFromProcesses measures clients that are in several processes.
func callFromProcesses(ctx context.Context, s *service, hosts []*suite.Worker, clients int, d time.Duration) (measure.Sample, error) {
	var used measure.Usage
	sample, err := s.Measure(ctx, func(sample *measure.Sample) error {
		answers := make([]clientsAnswer, len(hosts))
		var all errgroup.Group
		for i, w := range hosts {
			all.Go(func() (err error) {
				answers[i], err = clientsHost.Call(ctx, w, clientsRequest{s.way, s.path(), clients / len(hosts), d})
				return w.Blame(err)
			})
		}
		if err := all.Wait(); err != nil {
			return err
		}
		var each []*measure.Histogram
		for _, a := range answers {
			sample.Ops += a.Ops
			sample.Busy = max(sample.Busy, a.Busy)
			for i := range a.Latencies {
				each = append(each, hdrhistogram.Import(&a.Latencies[i]))
			}
			used.CPU, used.Switches, used.Mallocs = used.CPU+a.Usage.CPU, used.Switches+a.Usage.Switches, used.Mallocs+a.Usage.Mallocs
		}
		sample.Bytes = sample.Ops * 2 * 64
		sample.Latencies, sample.Worst = measure.Merge(each), measure.Worst(each)
		return nil
	})
	sample.Host = used
	sample.Elapsed = sample.Busy // what the answers take to come is not the clients'
	return sample, err
}

// idleClientsRequest asks a worker to be the process of clients that nobody uses, and to start their
// service, so that both have nothing else in them.
type idleClientsRequest struct {
	Way     suite.Way
	Clients int
	For     time.Duration
}

type idleClientsAnswer struct {
	Elapsed         time.Duration
	Dialling        time.Duration // of all of them
	Clients, Server measure.Usage
	// What the clients have added.
	ClientsMemory, ServerMemory measure.Memory
}

var idleClientsHost = ipc.NewMethod[idleClientsRequest, idleClientsAnswer]("bench.clients.idle", ipc.WithCodec(ipc.CBOR))

// idleClients measures what clients cost that nobody uses.
func idleClients(ctx context.Context, way suite.Way, n int, d time.Duration) (s measure.Sample, err error) {
	host, err := suite.Start(ctx, "idle clients of "+way.String(), socket.Driver{}, nil, worker.WithGrace(idleGrace))
	if err != nil {
		return s, err
	}
	defer func() {
		if closing := host.Close(); err == nil {
			err = closing
		}
	}()
	a, err := idleClientsHost.Call(ctx, host, idleClientsRequest{way, n, d})
	if err != nil {
		return s, host.Blame(err)
	}
	s.Elapsed, s.Host, s.Worker = a.Elapsed, a.Clients, a.Server
	s.Host.Threads, s.Host.RSS = 0, 0 // the table has the service's
	s.Worker.RSS = a.ServerMemory.RSS
	s.Private, s.Files = a.ServerMemory.Private, a.ServerMemory.Files
	each := func(bytes int64) float64 { return float64(bytes) / float64(n) / 1000 }
	s.Note = fmt.Sprintf("each: in the service %.1f kB RSS, %.1f kB Pss, %.1f kB private; in the client %.1f kB private; in memory files %.1f kB; dialled in %v",
		each(a.ServerMemory.RSS), each(a.ServerMemory.PSS), each(a.ServerMemory.Private), each(a.ClientsMemory.Private), each(a.ServerMemory.Files), (a.Dialling / time.Duration(n)).Round(time.Microsecond))
	return s, nil
}

// hostIdleClients is the part of the clients' process.
func hostIdleClients(ctx context.Context, r idleClientsRequest) (a idleClientsAnswer, err error) {
	s, err := startService(ctx, r.Way)
	if err != nil {
		return a, err
	}
	defer func() {
		if closing := s.Close(); err == nil {
			err = closing
		}
	}()
	use := func(clients []*worker.ServiceClient) error {
		for _, c := range clients {
			op := loadOf(s, "", 64, 1, func(int) ipc.Caller { return c }).New(0)
			op.Prepare(0)
			if err := op.Do(ctx); err != nil {
				return s.Blame(err)
			}
			if err := op.Check(); err != nil {
				return err
			}
		}
		return nil
	}
	memory := func() (clients, server measure.Memory, err error) {
		if _, err = freed(ctx, s.Worker); err == nil {
			clients, server = measure.MemoryOf(0), measure.MemoryOf(s.PID())
		}
		return clients, server, err
	}
	// What the first clients need, such as threads, is no client's.
	first, err := dialMany(ctx, r.Way, s.path(), 1)
	if err != nil {
		return a, s.Blame(err)
	}
	defer closeClients(first)
	if err := use(first); err != nil {
		return a, err
	}
	clientsBefore, serverBefore, err := memory()
	if err != nil {
		return a, err
	}
	start := measure.Now()
	clients, err := dialMany(ctx, r.Way, s.path(), r.Clients)
	if err != nil {
		return a, s.Blame(err)
	}
	defer closeClients(clients)
	a.Dialling = measure.Now() - start
	if err := use(clients); err != nil {
		return a, err
	}
	debug.FreeOSMemory()
	if err := sleep(ctx, max(r.For/10, 20*time.Millisecond)); err != nil { // until all have come to rest
		return a, err
	}
	clientsAfter, serverAfter, err := memory()
	if err != nil {
		return a, err
	}
	a.ClientsMemory, a.ServerMemory = clientsAfter.Since(clientsBefore), serverAfter.Since(serverBefore)
	if err := sleep(ctx, max(r.For/10, 20*time.Millisecond)); err != nil {
		return a, err
	}
	before, err := s.Usage(ctx, suite.UsageRequest{})
	if err != nil {
		return a, err
	}
	host, start := measure.Self(), measure.Now()
	if err := sleep(ctx, r.For); err != nil {
		return a, err
	}
	a.Elapsed, a.Clients = measure.Now()-start, measure.Self().Since(host)
	after, err := s.Usage(ctx, suite.UsageRequest{})
	if err != nil {
		return a, err
	}
	a.Server = after.Since(before)
	if err := use(clients); err != nil { // they are all still there
		return a, errors.Join(errors.New("after they were idle"), err)
	}
	return a, nil
}
