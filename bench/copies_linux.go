package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
)

// copyCases has what the copies of a call with a payload of so many bytes cost at least: the
// host copies it into memory that both processes have, the worker out of that and back into
// it, and the host out of it.
func copyCases(size int) (cases []suite.Case, end func()) {
	l := &limits{payload: size}
	return []suite.Case{{
		Result: report.Result{Scenario: "large", Subject: memcpy, Mode: thereAndBack, Codec: "raw", Bytes: new(size), Callers: 1},
		Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
			if err := l.start(ctx); err != nil {
				return measure.Sample{}, err
			}
			return l.beside(ctx, memcpy, func(ctx context.Context, stop func() bool) (measure.Sample, error) {
				return suite.Load{Worker: l.worker, Callers: 1, Bytes: 2 * size, New: func(int) suite.Operation {
					return suite.NewEcho(l.files.copyEcho(stop), size)
				}}.Run(ctx, d)
			})
		},
	}}, l.close
}

// copyEcho returns the host's side: two of the copies.
func (l *limitFiles) copyEcho(stop func() bool) suite.Echo {
	a, b := word(l.memory, lineA), word(l.memory, lineB)
	there, back := l.payloads()
	response := make([]byte, len(back))
	var n uint64
	return func(_ context.Context, request []byte) ([]byte, error) {
		n++
		copy(there, request)
		atomic.StoreUint64(a, n)
		if !await(b, n, stop) {
			return nil, errStopped
		}
		copy(response, back)
		return response, nil
	}
}

// copyBack is the worker's side: the other two.
func (l *limitFiles) copyBack(a, b *uint64) {
	there, back := l.payloads()
	own := make([]byte, len(there))
	for n := uint64(1); await(a, n, never); n++ {
		copy(own, there)
		copy(back, own)
		atomic.StoreUint64(b, n)
	}
}
