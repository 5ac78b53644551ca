package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/worker"
)

// spawnScenario measures how long it takes until a new worker answers.
func spawnScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "spawn",
		Title:    "from start to first answer",
		Subjects: append([]string{"bare"}, suite.Drivers...),
		About: `A process of this same binary is started and makes its first answer. bare is os/exec alone: the process ` +
			`writes one byte to a pipe and the clock stops when it is read. The drivers include Spawn, the hellos, the ` +
			`shared memory or sockets, and one call. Not included: ending the process, and building or loading the binary ` +
			`for the first time. CPU and the like are the host's only.`,
		Plan: planSpawn,
	}
}

// bareName is argument 0 of the process that bare starts.
const bareName = "tandem-bench-bare"

// bare does nothing unless this is the process for it.
func bare() {
	if os.Args[0] != bareName {
		return
	}
	if _, err := os.Stdout.Write([]byte{1}); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func planSpawn(o *suite.Options) (suite.Plan, error) {
	var g suite.Group
	d := max(2*o.Duration, 10*time.Millisecond)
	if o.Wants("bare") {
		g.Cases = append(g.Cases, suite.Case{
			Result:   report.Result{Scenario: "spawn", Subject: "bare"},
			Duration: d,
			Run:      func(ctx context.Context, d time.Duration) (measure.Sample, error) { return starts(ctx, d, startBare) },
		})
	}
	for _, way := range suite.Ways(o, justOne, justOne) {
		g.Cases = append(g.Cases, suite.Case{
			Result:   report.Result{Scenario: "spawn", Subject: way.Subject, Wait: way.Wait},
			Duration: d,
			Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
				return starts(ctx, d, func(ctx context.Context) (func() error, error) {
					w, err := suite.StartWay(ctx, way, 0)
					if err != nil {
						return nil, err
					}
					op := rawLoad(w, "", 64, 1).New(0)
					op.Prepare(0)
					if err = op.Do(ctx); err == nil {
						err = op.Check()
					}
					return w.Close, w.Blame(err)
				})
			},
		})
	}
	return suite.Plan{Groups: []suite.Group{g}}, nil
}

// starts starts processes, one after the other, for d. What start returns ends
// the process.
func starts(ctx context.Context, d time.Duration, start func(context.Context) (func() error, error)) (measure.Sample, error) {
	s := measure.Sample{Latencies: measure.NewHistogram(1)}
	before, began := suite.Usage(suite.UsageRequest{GC: true}), measure.Now()
	for s.Ops == 0 || measure.Now()-began < d {
		at := measure.Now()
		end, err := start(ctx)
		took := measure.Now() - at
		if end != nil {
			err = errors.Join(err, end())
		}
		if err != nil {
			return s, err
		}
		measure.Record(s.Latencies, took, 1)
		s.Busy += took
		s.Ops++
	}
	s.Elapsed = measure.Now() - began
	s.Host = measure.Self().Since(before)
	s.Host.RSS, s.Host.Threads = 0, 0
	return s, nil
}

func startBare(ctx context.Context) (func() error, error) {
	cmd := &exec.Cmd{Path: worker.Self("").Path, Args: []string{bareName}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var b [1]byte
	if _, err := io.ReadFull(out, b[:]); err != nil {
		return cmd.Wait, fmt.Errorf("the bare process (pid %d) has not answered: %w", cmd.Process.Pid, err)
	}
	return cmd.Wait, nil
}
