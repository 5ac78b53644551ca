package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"
	"sync"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

const pipelineRecord = 100 // bytes

var (
	// pass returns a record, by batches, and passPlain by calls.
	pass      = ipc.NewMethod[[]byte, []byte]("bench.pass", ipc.WithCodec(ipc.Raw))
	passPlain = ipc.NewMethod[[]byte, []byte]("bench.pass.plain", ipc.WithCodec(ipc.Raw))
	// grind computes for as many rounds as a record says.
	grind = ipc.NewMethod[[]byte, []byte]("bench.grind", ipc.WithCodec(ipc.Raw))
	// pipelineUsage is what a worker of a pool uses.
	pipelineUsage = ipc.NewMethod[suite.UsageRequest, measure.Usage]("bench.pipeline.usage")
)

func registerPipeline(s *worker.Server) {
	pipeline.Handle(s, pass, passRecord)
	worker.Handle(s, passPlain, passRecord)
	pipeline.Handle(s, grind, grindRecord)
	worker.Handle(s, pipelineUsage, func(_ context.Context, r suite.UsageRequest) (measure.Usage, error) { return suite.Usage(r), nil })
}

func passRecord(_ context.Context, b []byte) ([]byte, error) { return b, nil }

func grindRecord(_ context.Context, b []byte) ([]byte, error) {
	sum := uint32(0)
	for range binary.LittleEndian.Uint32(b[8:]) {
		sum = crc32.Update(sum, crc32.IEEETable, b)
	}
	binary.LittleEndian.PutUint32(b[12:], sum)
	return b, nil
}

// roundsOf10us is how many rounds grindRecord needs for 10 µs.
var roundsOf10us = sync.OnceValue(func() uint32 {
	b := make([]byte, pipelineRecord)
	best := time.Hour
	const rounds = 1000
	binary.LittleEndian.PutUint32(b[8:], rounds)
	for range 50 {
		began := measure.Now()
		_, _ = grindRecord(context.Background(), b)
		best = min(best, measure.Now()-began)
	}
	return uint32(max(10*time.Microsecond*rounds/best, 1))
})

// numbered yields records with numbers until d has passed, or so many if most is not 0.
func numbered(size int, rounds uint32, d time.Duration, most int) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		r := make([]byte, size)
		binary.LittleEndian.PutUint32(r[8:], rounds)
		began := measure.Now()
		for i := 0; ; i++ {
			if most > 0 && i == most || most == 0 && i > 0 && i%256 == 0 && measure.Now()-began >= d {
				return
			}
			binary.LittleEndian.PutUint64(r, uint64(i))
			if !yield(r, nil) {
				return
			}
		}
	}
}

// counter takes records, which have to come in order.
type counter struct{ n, bytes int64 }

func (c *counter) take(_ context.Context, r []byte) error {
	if binary.LittleEndian.Uint64(r) != uint64(c.n) {
		return fmt.Errorf("%w: record %d is number %d", suite.ErrGarbled, c.n, binary.LittleEndian.Uint64(r))
	}
	c.n++
	c.bytes += int64(len(r))
	return nil
}

// pipelinePool is a pool of either driver.
type pipelinePool struct {
	ipc.Caller
	usage func(ctx context.Context, r suite.UsageRequest) (measure.Usage, error) // of all workers
	close func() error
}

func startPipelinePool(ctx context.Context, way suite.Way, n int) (*pipelinePool, error) {
	if way.Subject == shm.Name {
		return startPool(ctx, shm.Driver{Wait: suite.WaitOf(way.Wait)}, n)
	}
	return startPool(ctx, socket.Driver{}, n)
}

func startPool[C drivers.Channel](ctx context.Context, driver drivers.Driver[C], n int) (*pipelinePool, error) {
	p, err := pool.New(ctx, n, worker.Self(suite.EntryName), driver)
	if err != nil {
		return nil, err
	}
	return &pipelinePool{Caller: p, close: p.Close, usage: func(ctx context.Context, r suite.UsageRequest) (all measure.Usage, err error) {
		for _, c := range p.Clients() {
			u, err := pipelineUsage.Call(ctx, c, r)
			if err != nil {
				return all, err
			}
			all.CPU += u.CPU
			all.Switches += u.Switches
			all.Mallocs += u.Mallocs
			all.RSS += u.RSS
			all.PeakRSS += u.PeakRSS
			all.Threads += u.Threads
		}
		return all, nil
	}}, nil
}

// through moves records through one stage, in order.
func (p *pipelinePool) through(ctx context.Context, m *ipc.Method[[]byte, []byte], source iter.Seq2[[]byte, error], memory bool) (s measure.Sample, err error) {
	request := suite.UsageRequest{GC: !memory, Reset: memory}
	workers, err := p.usage(ctx, request)
	if err != nil {
		return s, err
	}
	host, began := suite.Usage(request), measure.Now()
	var got counter
	out := pipeline.Through(pipeline.From(source), m, p, pipeline.Ordered())
	if err := out.Into(ctx, pipeline.SinkFunc[[]byte](got.take)); err != nil {
		return s, err
	}
	s.Busy = measure.Now() - began
	s.Elapsed, s.Ops, s.Bytes = s.Busy, got.n, got.bytes
	hostAfter := measure.Self()
	after, err := p.usage(ctx, suite.UsageRequest{})
	if err != nil {
		return s, err
	}
	s.Host, s.Worker = hostAfter.Since(host), after.Since(workers)
	s.Host.RSS, s.Worker.RSS, s.Host.Threads, s.Worker.Threads = 0, 0, 0, 0
	if memory { // beyond the start
		s.Host.RSS = max(hostAfter.PeakRSS-host.RSS, 0)
		s.Worker.RSS = max(after.PeakRSS-workers.RSS, 0)
	}
	return s, nil
}

// aloneThrough does what through does by a loop in this process.
func aloneThrough(ctx context.Context, f func(context.Context, []byte) ([]byte, error), source iter.Seq2[[]byte, error]) (measure.Sample, error) {
	return inThisProcess(func(got *counter) error {
		for r, err := range source {
			if err != nil {
				return err
			}
			if r, err = f(ctx, r); err != nil {
				return err
			}
			if err := got.take(ctx, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// appliedThrough does what through does by a pipeline in this process.
func appliedThrough(ctx context.Context, source iter.Seq2[[]byte, error]) (measure.Sample, error) {
	return inThisProcess(func(got *counter) error {
		out := pipeline.Apply(pipeline.From(source), "pass", func(ctx context.Context, r []byte) ([]byte, error) { return passRecord(ctx, bytes.Clone(r)) })
		return out.Into(ctx, pipeline.SinkFunc[[]byte](got.take))
	})
}

// inThisProcess measures what f does for the records that it counts.
func inThisProcess(f func(got *counter) error) (s measure.Sample, err error) {
	host, began := suite.Usage(suite.UsageRequest{GC: true}), measure.Now()
	var got counter
	if err := f(&got); err != nil {
		return s, err
	}
	s.Busy = measure.Now() - began
	s.Elapsed, s.Ops, s.Bytes = s.Busy, got.n, got.bytes
	s.Host = measure.Self().Since(host)
	s.Host.RSS, s.Host.Threads = 0, 0
	return s, nil
}
