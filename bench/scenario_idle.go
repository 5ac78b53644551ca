package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// idleScenario measures what workers cost that nobody calls.
func idleScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "idle",
		Title:    "1 to 1000 workers that nobody calls",
		Subjects: suite.Drivers,
		About: `So many workers are started, called once each and then left alone for 10 s (-quick: 1 s). CPU is in ` +
			`percent of one core over that time, for the host and for all workers together; threads and memory are the ` +
			`host's. The rings of shm have 64 KiB here, rather than 1 MiB, since each worker has two that are allocated ` +
			`in full. Not included: the time to start and end them.`,
		Plan: planIdle,
	}
}

// idleRing is the size of rings, and idleMemory what a worker is taken to need.
const (
	idleRing   = 64 << 10
	idleMemory = 12 << 20
)

func planIdle(o *suite.Options) (suite.Plan, error) {
	var plan suite.Plan
	d := 10 * time.Second
	if o.Quick {
		d = time.Second
	}
	d = min(d, 50*o.Duration)
	if o.Quick && len(o.Callers) == 0 {
		plan.Skipped = append(plan.Skipped, fmt.Sprintf("%d workers: that takes a run without -quick", idleWorkers))
	}
	for _, n := range suite.Given(o, o.Callers, []int{1, 100, 1000}, []int{1, 50}) {
		if free := measure.AvailableMemory(); free > 0 && free < int64(n)*idleMemory {
			plan.Skipped = append(plan.Skipped, fmt.Sprintf("%d workers, which may need %d MiB; %d are available", n, n*idleMemory>>20, free>>20))
			continue
		}
		g := suite.Group{NoRatio: true, Rounds: 1}
		for _, way := range suite.Ways(o, justOne, justOne) {
			g.Cases = append(g.Cases, suite.Case{
				Result:   report.Result{Scenario: "idle", Subject: way.Subject, Wait: way.Wait, Callers: n},
				Duration: d,
				Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
					return idle(ctx, way, n, d)
				},
			})
		}
		plan.Groups = append(plan.Groups, g)
	}
	return plan, nil
}

// idleRequest asks a worker to be the host of idle workers. A process of its own
// shows what they cost, not what earlier ones have left behind: Go keeps threads.
type idleRequest struct {
	Way     suite.Way
	Workers int
	For     time.Duration
}

type idleAnswer struct {
	Elapsed       time.Duration
	Host          measure.Usage
	WorkerCPU     time.Duration
	WorkerThreads int
}

var idleHost = ipc.NewMethod[idleRequest, idleAnswer]("bench.idle")

// idleGrace is how long workers by the thousand may take to end.
const idleGrace = time.Minute

func idle(ctx context.Context, way suite.Way, n int, d time.Duration) (s measure.Sample, err error) {
	host, err := suite.Start(ctx, "idle host of "+way.String(), socket.Driver{}, nil, worker.WithGrace(idleGrace))
	if err != nil {
		return s, err
	}
	defer func() {
		if closing := host.Close(); err == nil {
			err = closing
		}
	}()
	a, err := idleHost.Call(ctx, host, idleRequest{way, n, d})
	if err != nil {
		return s, host.Blame(err)
	}
	s.Elapsed, s.Host, s.Worker.CPU = a.Elapsed, a.Host, a.WorkerCPU
	if a.WorkerThreads > 0 {
		s.Note = fmt.Sprintf("each worker: %.1f threads", float64(a.WorkerThreads)/float64(n))
	}
	return s, nil
}

// hostIdle is the idle host's part.
func hostIdle(ctx context.Context, r idleRequest) (answer idleAnswer, err error) {
	var mu sync.Mutex
	var workers []*suite.Worker
	defer func() {
		var all errgroup.Group
		all.SetLimit(4 * runtime.NumCPU())
		for _, w := range workers {
			all.Go(func() error { return w.Blame(w.Close()) })
		}
		if closing := all.Wait(); err == nil {
			err = closing
		}
	}()
	all, starting := errgroup.WithContext(ctx)
	all.SetLimit(2 * runtime.NumCPU())
	for range r.Workers {
		all.Go(func() error {
			w, err := suite.StartWay(starting, r.Way, idleRing)
			if err != nil {
				return err
			}
			mu.Lock()
			workers = append(workers, w)
			mu.Unlock()
			op := rawLoad(w, "", 64, 1).New(0)
			op.Prepare(0)
			if err = op.Do(starting); err == nil {
				err = op.Check()
			}
			return w.Blame(err)
		})
	}
	if err := all.Wait(); err != nil {
		return answer, err
	}
	// Let everything that runs on after a start come to rest.
	runtime.GC()
	debug.FreeOSMemory()
	if err := sleep(ctx, max(r.For/10, 20*time.Millisecond)); err != nil {
		return answer, err
	}
	used := func() (cpu time.Duration, threads int) {
		for _, w := range workers {
			u, _ := measure.Process(w.PID())
			cpu += u.CPU
			threads += u.Threads
		}
		return cpu, threads
	}
	cpuBefore, _ := used()
	start, before := measure.Now(), measure.Self()
	if err := sleep(ctx, r.For); err != nil {
		return answer, err
	}
	answer.Elapsed, answer.Host = measure.Now()-start, measure.Self().Since(before)
	cpu, threads := used()
	answer.WorkerCPU, answer.WorkerThreads = cpu-cpuBefore, threads
	for _, w := range workers {
		select {
		case <-w.Done():
			return answer, w.Blame(errors.New("while idle"))
		default:
		}
	}
	return answer, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
