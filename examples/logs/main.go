// Logs gathers the logs and metrics of several workers with one consumer. Each worker writes into a
// ring of its own (ring/gather), through a slog.Handler; the host prints the lines as they come. One
// of the workers is killed in the middle. What it had published until then arrives, and the
// others do not notice.
//
//	go run ./examples/logs [-workers 3] [-lines 200]
//
// The program exits with status 1 if one record is missing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/ring/gather"
	"github.com/tandemipc/tandem/worker"
)

// Job is what a worker is to do.
type Job struct {
	Name  string
	Lines int
	Log   ipc.File // a socket, over which worker and host exchange the memory of the ring
}

// Start starts a job, and returns at once. What it returns is ipc.Counters: how many records the
// worker has published.
var Start = ipc.NewMethod[Job, ipc.File]("start")

func main() {
	worker.Main("logs", serve) // in the worker's process this does not return

	log.SetFlags(0)
	workers := flag.Int("workers", 3, "how many workers, one of which is killed")
	lines := flag.Int("lines", 200, "how many lines each of them logs")
	flag.Parse()
	if *workers < 1 || *lines < 1 {
		fmt.Fprintln(flag.CommandLine.Output(), "there has to be a worker, and a line")
		flag.Usage()
		os.Exit(2)
	}
	if err := run(context.Background(), *workers, *lines); err != nil {
		log.Fatal(err)
	}
}

// source is a worker, as the host sees it.
type source struct {
	name      string
	client    *worker.Client[*shm.Channel]
	link      *ring.Link
	published *ipc.CountersReader // what the worker says
	records   uint64              // that came
	lines     int                 // of them
	metrics   map[string]uint64   // the last value of each
	exit      error               // how the worker's process ended
}

func run(ctx context.Context, workers, lines int) error {
	var all []*source
	var g gather.Consumer[*source]
	for i := range workers {
		s, err := start(ctx, Job{Name: fmt.Sprint("worker ", i+1), Lines: lines})
		if err != nil {
			return err
		}
		defer s.end()
		all = append(all, s)
		if err := g.Add(s.link.Consumer, s); err != nil {
			return err
		}
	}
	defer g.Close() // before the memory goes

	victim := all[len(all)-1]
	for g.Len() > 0 {
		r, s, ok, err := g.Next()
		switch {
		case errors.Is(err, ring.ErrPeerGone): // and all that it had published was read
			s.end()
		case err != nil:
			return fmt.Errorf("%s: %w", s.name, err)
		case ok:
			if err := s.take(r); err != nil {
				return err
			}
			if s == victim && s.lines == (lines+1)/2 && r.Tag == tagLine {
				if err := s.client.Process().Signal(os.Kill); err != nil {
					return err
				}
			}
		default:
			if err := g.Wait(ctx); err != nil {
				return err
			}
		}
	}
	for _, s := range all {
		how := "has ended"
		var exit *worker.ExitError
		if errors.As(s.exit, &exit) {
			how = fmt.Sprintf("was %v", exit.Signal)
		}
		// It counts a record when it has published it, and may have been killed in between.
		if published := s.published.Load(0); s.records < published {
			return fmt.Errorf("%s %s: it has published %d records, and %d came", s.name, how, published, s.records)
		}
		fmt.Printf("%s %s: all of its %d records came: %d lines, requests %d, slow %d\n",
			s.name, how, s.records, s.lines, s.metrics["requests"], s.metrics["slow"])
	}
	return nil
}

// start starts a worker and its job.
func start(ctx context.Context, job Job) (_ *source, err error) {
	s := &source{name: job.Name, metrics: make(map[string]uint64)}
	defer func() {
		if err != nil {
			s.end()
		}
	}()
	if s.client, err = worker.Spawn(ctx, worker.Self("logs"), shm.Driver{}); err != nil {
		return nil, err
	}
	ours, theirs, err := ring.Socketpair()
	if err != nil {
		return nil, err
	}
	job.Log = ipc.NewFile(theirs)
	counters, err := Start.Call(ctx, s.client, job)
	theirs.Close() // so that only the worker has it
	if err == nil {
		s.published, err = ipc.OpenCounters(counters.File())
		counters.Close()
	}
	if err != nil {
		ours.Close()
		return nil, err
	}
	s.link, err = ring.Exchange(ctx, ours, ring.MinSize) // we only receive
	return s, err
}

// end ends what there is. Doing it again does nothing.
func (s *source) end() {
	if s.client != nil {
		s.exit = s.client.Close()
	}
	if s.link != nil {
		s.link.Close()
	}
}

// take prints a line, or notes a metric.
func (s *source) take(r ring.Record) error {
	number, body, err := parse(r.Data)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", s.name, err)
	case number != s.records:
		return fmt.Errorf("%s: record %d comes after %d others", s.name, number, s.records)
	}
	s.records++
	switch r.Tag {
	case tagLine:
		s.lines++
		fmt.Printf("%s: %s", s.name, body)
	case tagMetric:
		name, value, err := parseMetric(body)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		s.metrics[name] = value
	}
	return nil
}
