package main

import (
	"context"
	"log"
	"log/slog"
	"net"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/worker"
)

// ringSize is the size of a worker's ring: small, so that the host sets the pace. It bounds how far
// a worker can be ahead of the host.
const ringSize = ring.MinSize

// serve is the worker.
func serve() error {
	s := worker.NewServer()
	worker.Handle(s, Start, func(_ context.Context, job Job) (published ipc.File, err error) {
		conn, err := net.FileConn(job.Log.File()) // a duplicate, so job.Log may be closed with the request
		if err != nil {
			return ipc.File{}, err
		}
		counters, err := ipc.NewCounters(1)
		if err == nil {
			published, err = ipc.DuplicateFile(counters.File())
		}
		if err != nil {
			conn.Close()
			return ipc.File{}, err
		}
		go func() {
			if err := do(job, conn.(*net.UnixConn), counters); err != nil {
				log.Print(err) // to stderr, which the host shows
			}
		}()
		return published, nil
	})
	return s.Serve(context.Background())
}

// do does the job, and then closes the ring, which tells the host that there is nothing more.
func do(job Job, conn *net.UnixConn, published *ipc.Counters) error {
	link, err := ring.Exchange(context.Background(), conn, ringSize)
	if err != nil {
		return err
	}
	defer link.Close()
	j := &journal{out: link.Producer, published: published}
	logger := j.logger()
	var requests, slow uint64
	for n := range job.Lines {
		requests++
		level, took := slog.LevelInfo, 10
		if n%10 == 9 {
			slow++
			level, took = slog.LevelWarn, 100
		}
		logger.Log(context.Background(), level, "request", "n", n+1, "ms", took)
		if requests%50 == 0 || n == job.Lines-1 {
			if err := j.metric("requests", requests); err != nil {
				return err
			}
			if err := j.metric("slow", slow); err != nil {
				return err
			}
		}
	}
	return nil
}
