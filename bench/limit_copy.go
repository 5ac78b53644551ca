package main

import (
	"bytes"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/suite"
)

// copyMemory measures copies within this process.
func copyMemory(size int, d time.Duration) (measure.Sample, error) {
	from, to := make([]byte, size), make([]byte, size)
	for i := range from {
		from[i] = byte(i * 7)
	}
	copy(to, from) // which also maps the pages
	s := measure.Sample{Latencies: measure.NewHistogram(1)}
	before, start := suite.Usage(suite.UsageRequest{GC: true}), measure.Now()
	for now := start; s.Ops == 0 || now-start < d; {
		at := now
		from[int(s.Ops)%size]++
		copy(to, from)
		now = measure.Now()
		measure.Record(s.Latencies, now-at, 1)
		s.Ops++
	}
	s.Busy = measure.Now() - start
	s.Elapsed = s.Busy
	s.Host = measure.Self().Since(before)
	s.Host.RSS, s.Host.Threads, s.Host.Mallocs = 0, 0, 0
	s.Bytes = s.Ops * int64(size)
	if !bytes.Equal(from, to) {
		return s, fmt.Errorf("%w: the copy differs", suite.ErrGarbled)
	}
	return s, nil
}
