package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// The modes of scenario services.
const (
	servicesName   = "services"
	ofWorker       = "worker"
	ofWorkerPlaced = "worker in place"
	fromProcesses  = "in place, from 4 processes"
	dialled        = "dial to first answer"
	takenOver      = "gap of a take-over"
	idleDialled    = "idle clients"
)

const (
	// manyClients call at the same time, clientProcesses are where they are if not in one, and
	// idleClientCount are idle.
	manyClients     = 64
	clientProcesses = 4
	idleClientCount = 1000
)

// servicesScenario measures services: processes that their clients have not started.
func servicesScenario() suite.Scenario {
	return suite.Scenario{
		Name:     servicesName,
		Title:    "services: dialled calls, many clients, idle clients, dialling and take-over",
		Subjects: suite.Drivers,
		About: `A service is a process that listens (ServeListener), and its clients dial it (Dial). Calls are those of scenario call, ` +
			`64 bytes; worker is a worker's call beside them, with the rings that a worker has by default: 1 MiB, where a client has 64 KiB. ` +
			`With 64 clients each has a link and a caller of its own, all in one process, or 16 in each of four; ` +
			`calls per second are of all together, by the wall clock, and the note says by how many times the 99th percentile of the worst client is that of ` +
			`the median client. Dial to first answer includes one call; ending the client is not timed. The gap of a take-over is the longest time between two answers of ` +
			`one client that calls all the time, while another process takes the listener over and the client goes there; no call fails. ` +
			`Starting that process is not included. Idle clients are dialled from one process, called once each and then left alone for 10 s (-quick: 1 s). Threads, ` +
			`and memory that is resident, are of the service: what the clients have added. CPU is in percent of one core, of the process of the clients and of the service.`,
		Plan: planServices,
	}
}

func planServices(o *suite.Options) (suite.Plan, error) {
	p := &servicesPlan{o: o, workers: new(suite.Pool), services: new(servicePool)}
	var groups []suite.Group
	for _, way := range suite.Ways(o, justOne, justOne) {
		groups = append(groups, p.calls(way))
	}
	groups = append(groups, p.dials(), p.takeOvers(), p.idle())
	return suite.Plan{Groups: groups, Close: func() {
		p.services.Close()
		p.workers.Close()
	}}, nil
}

// servicesPlan makes the groups.
type servicesPlan struct {
	o        *suite.Options
	workers  *suite.Pool
	services *servicePool
}

func servicesResult(way suite.Way, mode string, clients int) report.Result {
	r := report.Result{Scenario: servicesName, Subject: way.Subject, Wait: way.Wait, Mode: mode, Callers: clients}
	if clients == 1 || clients == manyClients {
		r.Codec, r.Bytes = "raw", new(64)
	}
	return r
}

// calls has the calls of one client, over those of a worker, and of many, over those of one.
func (p *servicesPlan) calls(way suite.Way) (g suite.Group) {
	const size = 64
	add := func(mode string, clients, base int, run func(context.Context, time.Duration) (measure.Sample, error)) {
		g.Cases = append(g.Cases, suite.Case{Result: servicesResult(way, mode, clients), Run: run})
		g.Bases = append(g.Bases, base)
	}
	clients := func(mode string, n int) func(context.Context, time.Duration) (measure.Sample, error) {
		return func(ctx context.Context, d time.Duration) (measure.Sample, error) {
			s, clients, err := p.services.dialled(ctx, way, n)
			if err != nil {
				return measure.Sample{}, err
			}
			return loadOf(s, mode, size, n, func(i int) ipc.Caller { return clients[i] }).Run(ctx, d)
		}
	}
	add(ofWorker, 1, 0, rawCalls(p.workers, way, "", size, 1))
	add(ofWorkerPlaced, 1, 0, rawCalls(p.workers, way, inPlace, size, 1))
	add("", 1, 0, clients("", 1))
	add(inPlace, 1, 1, clients(inPlace, 1))
	add(inPlace, manyClients, 3, clients(inPlace, manyClients))
	add(fromProcesses, manyClients, 3, func(ctx context.Context, d time.Duration) (measure.Sample, error) {
		s, hosts, err := p.services.hosted(ctx, way, clientProcesses)
		if err != nil {
			return measure.Sample{}, err
		}
		return callFromProcesses(ctx, s, hosts, manyClients, d)
	})
	for i := 4; i < len(g.Cases); i++ {
		run := g.Cases[i].Run
		g.Cases[i].Duration = 3 * p.o.Duration // for the 99th percentile of each client
		g.Cases[i].Run = func(ctx context.Context, d time.Duration) (measure.Sample, error) {
			s, err := run(ctx, d)
			s.Note = fmt.Sprintf("p99 of the worst client: %.2f times the median client's", s.Worst)
			return s, err
		}
	}
	return g
}

// dials has the time until a client has an answer.
func (p *servicesPlan) dials() (g suite.Group) {
	for _, way := range suite.Ways(p.o, justOne, justOne) {
		g.Cases = append(g.Cases, suite.Case{
			Result: servicesResult(way, dialled, 0),
			Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
				s, err := p.services.service(ctx, way)
				if err != nil {
					return measure.Sample{}, err
				}
				return starts(ctx, d, func(ctx context.Context) (func() error, error) {
					c, err := dialService(ctx, way, s.path())
					if err != nil {
						return nil, s.Blame(err)
					}
					err = trips(ctx, loadOf(s, "", 64, 1, func(int) ipc.Caller { return c }).New(0))()
					return c.Close, s.Blame(err)
				})
			},
		})
	}
	return g
}

// takeOvers has how long a client has no answer while its service is taken over.
func (p *servicesPlan) takeOvers() (g suite.Group) {
	for _, way := range suite.Ways(p.o, justOne, justOne) {
		g.Cases = append(g.Cases, suite.Case{
			Result:   servicesResult(way, takenOver, 0),
			Duration: 2 * p.o.Duration,
			Run:      func(ctx context.Context, d time.Duration) (measure.Sample, error) { return takeOvers(ctx, way, d) },
		})
	}
	return g
}

// afterwards is how many answers a gap is looked for in after the client has gone to the successor.
const afterwards = 100

// takeOvers has a service taken over for d, at least once.
func takeOvers(ctx context.Context, way suite.Way, d time.Duration) (sample measure.Sample, err error) {
	s, err := startService(ctx, way)
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	c, err := dialService(ctx, way, s.path(), worker.WithReconnect(worker.Reconnect{}))
	if err != nil {
		return sample, s.Blame(err)
	}
	defer c.Close()
	sample.Latencies = measure.NewHistogram(1)
	began, before := measure.Now(), suite.Usage(suite.UsageRequest{GC: true})
	trip := trips(ctx, loadOf(s, "", 64, 1, func(int) ipc.Caller { return c }).New(0))
	for sample.Ops == 0 || measure.Now()-began < d {
		next, err := s.process(ctx, true)
		if err != nil {
			return sample, err
		}
		gap, err := longestGap(trip, func() bool { return c.Peer().PID == next.PID() }, func() error { return s.serve(ctx, next, true) })
		err = errors.Join(err, s.Worker.Close())
		if s.Worker = next; err != nil {
			return sample, err
		}
		measure.Record(sample.Latencies, gap, 1)
		sample.Busy += gap
		sample.Ops++
	}
	sample.Elapsed, sample.Host = measure.Now()-began, measure.Self().Since(before)
	sample.Host.RSS, sample.Host.Threads = 0, 0
	return sample, nil
}

// longestGap calls all the time, while event happens and until arrived says that what comes of it is there.
func longestGap(trip func() error, arrived func() bool, event func() error) (gap time.Duration, err error) {
	for range afterwards {
		if err := trip(); err != nil {
			return 0, err
		}
	}
	var happened atomic.Pointer[error]
	go func() {
		err := event()
		happened.Store(&err)
	}()
	last := measure.Now()
	for more := afterwards; more > 0; {
		if err := trip(); err != nil {
			return gap, fmt.Errorf("a call during a take-over: %w", err)
		}
		now := measure.Now()
		gap, last = max(gap, now-last), now
		if err := happened.Load(); err != nil && *err != nil {
			return gap, *err
		}
		if arrived() {
			more--
		}
	}
	for happened.Load() == nil {
		if err := trip(); err != nil {
			return gap, err
		}
	}
	return gap, *happened.Load()
}

// idle has what clients cost that nobody uses.
func (p *servicesPlan) idle() suite.Group {
	d := 10 * time.Second
	if p.o.Quick {
		d = time.Second
	}
	g := suite.Group{NoRatio: true, Rounds: 1}
	for _, n := range suite.Given(p.o, p.o.Callers, []int{idleClientCount}, []int{idleClientCount}) {
		for _, way := range suite.Ways(p.o, justOne, justOne) {
			r := servicesResult(way, idleDialled, n)
			r.Codec, r.Bytes = "", nil
			g.Cases = append(g.Cases, suite.Case{
				Result:   r,
				Duration: min(d, 50*p.o.Duration),
				Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
					return idleClients(ctx, way, n, d)
				},
			})
		}
	}
	return g
}
