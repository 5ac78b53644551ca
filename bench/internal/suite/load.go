package suite

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// An Operation is one caller's call. Only Do is timed.
type Operation interface {
	Prepare(seq uint64)
	Do(ctx context.Context) error
	// Check fails if the answer to the last Do is not the right one.
	Check() error
}

// Load is a number of callers that each make one call after the other.
type Load struct {
	Worker  Meter
	Callers int
	// New makes the operation of a caller.
	New func(caller int) Operation
	// Bytes is what one operation moves, there and back together.
	Bytes int
	// Begin, if not nil, is called when the warming up is over.
	Begin func()
	// Each, if not nil, is called with the latencies of each caller.
	Each func(*measure.Histogram)
	// Memory asks for peaks of memory and threads.
	Memory bool
}

// WarmUp bounds how long callers call before they are measured.
const WarmUp = 40 * time.Millisecond

type caller struct {
	op        Operation
	seq       uint64
	latencies *measure.Histogram
	ops       int64
	busy      time.Duration
}

// Run measures for d.
func (l Load) Run(ctx context.Context, d time.Duration) (measure.Sample, error) {
	callers := make([]*caller, max(l.Callers, 1))
	for i := range callers {
		callers[i] = &caller{op: l.New(i), latencies: measure.NewHistogram(len(callers)), seq: uint64(i) << 40}
	}
	if err := l.each(ctx, callers, min(d/3, WarmUp)); err != nil {
		return measure.Sample{}, l.Worker.Blame(err)
	}
	for _, c := range callers {
		c.latencies.Reset()
		c.ops, c.busy = 0, 0
	}
	run := l.Worker.Measure
	if l.Memory {
		run = l.Worker.MeasureMemory
	}
	return run(ctx, func(s *measure.Sample) error {
		if l.Begin != nil {
			l.Begin()
		}
		start := measure.Now()
		if err := l.each(ctx, callers, d); err != nil {
			return err
		}
		s.Busy = measure.Now() - start
		var latencies []*measure.Histogram
		for _, c := range callers {
			latencies = append(latencies, c.latencies)
			s.Ops += c.ops
		}
		if len(callers) == 1 {
			s.Busy = callers[0].busy // without preparing and checking
		}
		s.Bytes = s.Ops * int64(l.Bytes)
		s.Latencies, s.Worst = measure.Merge(latencies), measure.Worst(latencies)
		if l.Each != nil {
			for _, h := range latencies {
				l.Each(h)
			}
		}
		return nil
	})
}

// each lets the callers call until d has passed, at least once.
func (l Load) each(ctx context.Context, callers []*caller, d time.Duration) error {
	if len(callers) == 1 {
		return callers[0].call(ctx, measure.Now()+d)
	}
	var all sync.WaitGroup
	var first atomic.Pointer[error]
	end := measure.Now() + d
	for _, c := range callers {
		all.Go(func() {
			if err := c.call(ctx, end); err != nil {
				first.CompareAndSwap(nil, &err)
			}
		})
	}
	all.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}

func (c *caller) call(ctx context.Context, end time.Duration) error {
	for {
		c.op.Prepare(c.seq)
		start := measure.Now()
		err := c.op.Do(ctx)
		now := measure.Now()
		if err != nil {
			return err
		}
		if err := c.op.Check(); err != nil {
			return err
		}
		measure.Record(c.latencies, now-start, 1)
		c.busy += now - start
		c.ops++
		c.seq++
		if now >= end {
			return nil
		}
	}
}

// Echo calls a worker that returns the request.
type Echo func(ctx context.Context, request []byte) (response []byte, err error)

// ErrGarbled says that an answer is not the one that belongs to the request.
var ErrGarbled = errors.New("a message was lost or garbled")

// NewEcho returns the operation of sending size bytes and getting them back.
// Every request differs in its first and last eight bytes, which are compared in
// every response; all bytes are compared in small responses, and in one of
// checkAll large ones.
func NewEcho(call Echo, size int) Operation {
	e := &echo{call: call, request: make([]byte, size)}
	r := rand.NewPCG(uint64(size), 1)
	for i := 0; i < size; i += 8 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], r.Uint64())
		copy(e.request[i:], word[:])
	}
	return e
}

const (
	alwaysAll = 1 << 10 // bytes
	checkAll  = 64
)

type echo struct {
	call              Echo
	seq               uint64
	request, response []byte
}

func (e *echo) Prepare(seq uint64) {
	e.seq = seq
	if n := len(e.request); n >= 8 {
		binary.LittleEndian.PutUint64(e.request, seq)
		binary.LittleEndian.PutUint64(e.request[n-8:], seq^^uint64(0))
	}
}

func (e *echo) Do(ctx context.Context) (err error) {
	e.response, err = e.call(ctx, e.request)
	return err
}

func (e *echo) Check() error {
	n := len(e.request)
	same := len(e.response) == n
	switch {
	case !same:
	case n <= alwaysAll || e.seq%checkAll == 0:
		same = bytes.Equal(e.request, e.response)
	default:
		same = bytes.Equal(e.request[:8], e.response[:8]) && bytes.Equal(e.request[n-8:], e.response[n-8:])
	}
	if !same {
		return fmt.Errorf("%w: call %d sent %d bytes and got %d that differ", ErrGarbled, e.seq, n, len(e.response))
	}
	return nil
}
