package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
)

const (
	pipelineName = "pipeline"
	osExec       = "os/exec"

	linesByOne    = "a line at a time"
	linesBuffered = "lines, buffered"
	plainHandlers = "plain handlers"
	applied       = "in a pipeline"
	grinding      = "10 µs a record"
	manyBytes     = "2 GB"
	manyRecord    = 1000 // bytes
)

// pipelineScenario measures pipelines.
func pipelineScenario() suite.Scenario {
	return suite.Scenario{
		Name:     pipelineName,
		Title:    "records through a stage of a pipeline",
		Subjects: append([]string{alone, osExec}, suite.Drivers...),
		About: `Records with numbers are made, go through one stage in order (package worker/pipeline), and the sink checks that ` +
			`none is missing. alone is one process: a loop that calls the same handler, or a pipeline with that ` +
			`as a function (pipeline.Apply), and a copy of each record, since a sink gets many at a time. The handler returns the record; a worker with ` +
			`plain handlers gets a call for each record. With os/exec a record is a line to a process that ` +
			`returns it: one at a time, or as many as the pipes take, through buffers of 64 KiB. 10 µs a record: the handler computes for that long, alone ` +
			`in one process and otherwise in two workers. 2 GB (200 MB with -quick) are records of 1000 B, and the memory is the peak of all processes beyond what they had before.`,
		Plan: planPipeline,
	}
}

// pipelinePools keeps pools between cases.
type pipelinePools struct {
	mu    sync.Mutex
	pools map[pipelineKey]*pipelinePool
}

type pipelineKey struct {
	way suite.Way
	n   int
}

// with calls f with a pool of n workers.
func (p *pipelinePools) with(ctx context.Context, way suite.Way, n int, f func(*pipelinePool) (measure.Sample, error)) (measure.Sample, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := pipelineKey{way, n}
	if p.pools[key] == nil {
		started, err := startPipelinePool(ctx, way, n)
		if err != nil {
			return measure.Sample{}, err
		}
		if p.pools == nil {
			p.pools = make(map[pipelineKey]*pipelinePool)
		}
		p.pools[key] = started
	}
	return f(p.pools[key])
}

func (p *pipelinePools) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, each := range p.pools {
		errs = append(errs, each.close())
	}
	p.pools = nil
	_ = errors.Join(errs...) // what was measured is complete all the same
}

func planPipeline(o *suite.Options) (suite.Plan, error) {
	pools := new(pipelinePools)
	ways := suite.Ways(o, justOne, justOne)
	return suite.Plan{Close: pools.Close, Groups: []suite.Group{
		pipelineTrivial(o, pools, ways), pipelineGrinding(o, pools, ways), pipelineMemory(o, pools, ways),
	}}, nil
}

func pipelineResult(subject, mode, wait string, size int) report.Result {
	return report.Result{Scenario: pipelineName, Subject: subject, Mode: mode, Wait: wait, Codec: "raw", Bytes: new(size)}
}

// pipelineTrivial has a handler that does nothing.
func pipelineTrivial(o *suite.Options, pools *pipelinePools, ways []suite.Way) (g suite.Group) {
	if o.Wants(alone) {
		g.Cases = append(g.Cases, suite.Case{Result: pipelineResult(alone, "", "", pipelineRecord), Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
			return aloneThrough(ctx, passRecord, numbered(pipelineRecord, 0, d, 0))
		}}, suite.Case{Result: pipelineResult(alone, applied, "", pipelineRecord), Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
			return appliedThrough(ctx, numbered(pipelineRecord, 0, d, 0))
		}})
	}
	for _, way := range ways {
		for _, c := range []struct {
			mode string
			m    *ipc.Method[[]byte, []byte]
		}{{"", pass}, {plainHandlers, passPlain}} {
			g.Cases = append(g.Cases, suite.Case{Result: pipelineResult(way.Subject, c.mode, way.Wait, pipelineRecord), Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
				return pools.with(ctx, way, 1, func(p *pipelinePool) (measure.Sample, error) {
					if _, err := p.through(ctx, c.m, numbered(pipelineRecord, 0, d/10, 0), false); err != nil { // warm up
						return measure.Sample{}, err
					}
					return p.through(ctx, c.m, numbered(pipelineRecord, 0, d, 0), false)
				})
			}})
		}
	}
	if o.Wants(osExec) {
		for _, mode := range []string{linesByOne, linesBuffered} {
			g.Cases = append(g.Cases, suite.Case{Result: pipelineResult(osExec, mode, "", pipelineRecord), Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
				return throughLines(ctx, d, mode == linesBuffered)
			}})
		}
	}
	return g
}

// pipelineGrinding has a handler that computes.
func pipelineGrinding(o *suite.Options, pools *pipelinePools, ways []suite.Way) (g suite.Group) {
	if o.Wants(alone) {
		g.Cases = append(g.Cases, suite.Case{Result: pipelineResult(alone, grinding, "", pipelineRecord), Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
			return aloneThrough(ctx, grindRecord, numbered(pipelineRecord, roundsOf10us(), d, 0))
		}})
	}
	for _, way := range ways {
		g.Cases = append(g.Cases, suite.Case{Result: pipelineResult(way.Subject, grinding, way.Wait, pipelineRecord), Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
			return pools.with(ctx, way, 2, func(p *pipelinePool) (measure.Sample, error) {
				if _, err := p.through(ctx, grind, numbered(pipelineRecord, roundsOf10us(), d/10, 0), false); err != nil {
					return measure.Sample{}, err
				}
				// As many as one process can do in d and one more, since a source that ends with the time would leave
				// the windows full.
				return p.through(ctx, grind, numbered(pipelineRecord, roundsOf10us(), 0, int(max(2*d/(10*time.Microsecond), 100))), false)
			})
		}})
	}
	return g
}

// pipelineMemory has the memory of much input.
func pipelineMemory(o *suite.Options, pools *pipelinePools, ways []suite.Way) suite.Group {
	bytes := 2_000_000_000
	if o.Quick {
		bytes /= 10
	}
	g := suite.Group{NoRatio: true, Rounds: 1}
	for _, way := range ways {
		g.Cases = append(g.Cases, suite.Case{Result: pipelineResult(way.Subject, manyBytes, way.Wait, manyRecord), Duration: time.Second, Run: func(ctx context.Context, _ time.Duration) (measure.Sample, error) {
			return pools.with(ctx, way, 1, func(p *pipelinePool) (measure.Sample, error) {
				return p.through(ctx, pass, numbered(manyRecord, 0, 0, bytes/manyRecord), true)
			})
		}})
	}
	return g
}
