package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// What the workers do with buffers.
var (
	// echoBuffer looks at the first word of a buffer and returns the buffer.
	echoBuffer = ipc.NewMethod[ipc.Buffer, ipc.Buffer]("bench.buffer", ipc.WithCodec(ipc.Raw))
	// sumBuffer reads all of a buffer and returns the sum of its words.
	sumBuffer = ipc.NewMethod[ipc.Buffer, []byte]("bench.buffer.sum", ipc.WithCodec(ipc.Raw))
)

func registerBuffers(s *worker.Server) {
	worker.Handle(s, echoBuffer, func(_ context.Context, b ipc.Buffer) (ipc.Buffer, error) {
		if err := checkMark(b, b.Len()); err != nil {
			return ipc.Buffer{}, err
		}
		return b, nil
	})
	worker.Handle(s, sumBuffer, func(_ context.Context, b ipc.Buffer) ([]byte, error) {
		return binary.LittleEndian.AppendUint64(nil, sumWords(b.Bytes())), nil
	})
}

// bufferLeast is the smallest buffer: one word.
const bufferLeast = 8

// mark is the first word of a buffer of so many bytes that is echoed.
func mark(size int) uint64 { return ^uint64(size) * 0x9e3779b97f4a7c15 }

func checkMark(b ipc.Buffer, size int) error {
	if b.Len() != size || size < bufferLeast {
		return fmt.Errorf("%w: a buffer of %d bytes in the place of %d", suite.ErrGarbled, b.Len(), size)
	}
	if word := binary.LittleEndian.Uint64(b.Bytes()); word != mark(size) {
		return fmt.Errorf("%w: the first word of a buffer of %d bytes is %#x", suite.ErrGarbled, size, word)
	}
	return nil
}

// echoBuffers measures round trips of one buffer, so many between two looks at the clock.
func echoBuffers(ctx context.Context, w *suite.Worker, a *ipc.Arena, size, together int, d time.Duration) (measure.Sample, error) {
	request, err := a.Alloc(ctx, size)
	if err != nil {
		return measure.Sample{}, err
	}
	defer request.Release()
	newFiller(size).fill(request.Bytes())
	binary.LittleEndian.PutUint64(request.Bytes(), mark(size))
	// No bytes are counted, since none are moved.
	return suite.MeasureTrips(ctx, w, d, 0, together, func() error {
		response, err := echoBuffer.Call(ctx, w, request)
		if err != nil {
			return err
		}
		err = checkMark(response, size)
		response.Release()
		return err
	})
}

// fillBlock is what a filler copies at once: it stays in the cache, so that what
// is measured is the writing.
const fillBlock = 4 << 10

// A filler fills buffers of one size, each time with other bytes.
type filler struct {
	block, rest []byte
	blocks      uint64 // that fit
	// Sums of a block and of the rest without their first words, which differ each time.
	ofBlock, ofRest uint64
	seq             uint64
}

func newFiller(size int) *filler {
	f := &filler{block: make([]byte, fillBlock), blocks: uint64(size / fillBlock)}
	for i := 8; i < len(f.block); i++ {
		f.block[i] = byte(i*7 + i>>8)
	}
	f.rest = f.block[:size%fillBlock]
	f.ofBlock, f.ofRest = sumWords(f.block), sumWords(f.rest)
	return f
}

// fill fills b, and returns the sum of its words.
func (f *filler) fill(b []byte) (sum uint64) {
	f.seq++
	stamp := f.seq * 0x9e3779b97f4a7c15
	var first [8]byte
	binary.LittleEndian.PutUint64(first[:], stamp)
	copy(f.block, first[:])
	for range f.blocks {
		b = b[copy(b, f.block):]
	}
	copy(b, f.rest)
	sum = f.blocks * (f.ofBlock + stamp)
	if n := min(len(f.rest), len(first)); n > 0 {
		clear(first[n:])
		sum += f.ofRest + sumWords(first[:n])
	}
	return sum
}

// sumWords adds up the words of b, and the bytes that are left over.
func sumWords(b []byte) uint64 {
	var s0, s1, s2, s3 uint64
	for len(b) >= 64 {
		w := b[:64]
		s0 += binary.LittleEndian.Uint64(w[0:]) + binary.LittleEndian.Uint64(w[32:])
		s1 += binary.LittleEndian.Uint64(w[8:]) + binary.LittleEndian.Uint64(w[40:])
		s2 += binary.LittleEndian.Uint64(w[16:]) + binary.LittleEndian.Uint64(w[48:])
		s3 += binary.LittleEndian.Uint64(w[24:]) + binary.LittleEndian.Uint64(w[56:])
		b = b[64:]
	}
	for ; len(b) >= 8; b = b[8:] {
		s0 += binary.LittleEndian.Uint64(b)
	}
	for _, x := range b {
		s1 += uint64(x)
	}
	return s0 + s1 + s2 + s3
}

// filledCall fills a buffer and has the worker read all of it.
type filledCall struct {
	to     ipc.Caller
	buffer ipc.Buffer
	filler *filler
	sum    uint64
	answer []byte
}

func (c *filledCall) Prepare(uint64) {}

func (c *filledCall) Do(ctx context.Context) error {
	c.sum = c.filler.fill(c.buffer.Bytes())
	return sumBuffer.CallInto(ctx, c.to, c.buffer, &c.answer)
}

func (c *filledCall) Check() error { return checkSum(c.answer, c.sum) }

func checkSum(answer []byte, sum uint64) error {
	if len(answer) != 8 || binary.LittleEndian.Uint64(answer) != sum {
		return fmt.Errorf("%w: the words of a buffer have the sum %#x, and %x was read", suite.ErrGarbled, sum, answer)
	}
	return nil
}

// filledBuffers measures buffers that are filled and read, one after the other.
func filledBuffers(ctx context.Context, w *suite.Worker, a *ipc.Arena, size int, d time.Duration) (measure.Sample, error) {
	buffer, err := a.Alloc(ctx, size)
	if err != nil {
		return measure.Sample{}, err
	}
	defer buffer.Release()
	s, err := suite.Load{Worker: w, Callers: 1, Bytes: size, New: func(int) suite.Operation {
		return &filledCall{to: w, buffer: buffer, filler: newFiller(size)}
	}}.Run(ctx, d)
	s.Latencies = nil // as of what passes
	return s, err
}

// passBuffers measures the same with two buffers: the worker reads one while the
// other is filled.
func passBuffers(ctx context.Context, w *suite.Worker, a *ipc.Arena, size int, d time.Duration) (measure.Sample, error) {
	type flight struct {
		buffer ipc.Buffer
		sum    uint64
		answer *ipc.Future[[]byte]
	}
	var flights [2]flight
	for i := range flights {
		b, err := a.Alloc(ctx, size)
		if err != nil {
			return measure.Sample{}, err
		}
		defer b.Release()
		flights[i].buffer = b
	}
	f := newFiller(size)
	land := func(of *flight) error {
		if of.answer == nil {
			return nil
		}
		answer, err := of.answer.Wait(ctx)
		if of.answer = nil; err != nil {
			return err
		}
		return checkSum(answer, of.sum)
	}
	pass := func(d time.Duration) (n int64, err error) {
		for start := measure.Now(); n < int64(len(flights)) || measure.Now()-start < d; n++ {
			next := &flights[n%int64(len(flights))]
			if err := land(next); err != nil {
				return n, err
			}
			next.sum = f.fill(next.buffer.Bytes())
			if next.answer, err = sumBuffer.Go(ctx, w, next.buffer); err != nil {
				return n, err
			}
		}
		for i := range flights {
			if err := land(&flights[i]); err != nil {
				return n, err
			}
		}
		return n, nil
	}
	if _, err := pass(min(d/3, suite.WarmUp)); err != nil {
		return measure.Sample{}, w.Blame(err)
	}
	return w.Measure(ctx, func(s *measure.Sample) (err error) {
		start := measure.Now()
		s.Ops, err = pass(d)
		s.Busy = measure.Now() - start
		s.Bytes = s.Ops * int64(size)
		return err
	})
}

// allocBuffers measures what a buffer costs its maker, in one process.
func allocBuffers(ctx context.Context, a *ipc.Arena, size int, d time.Duration) (measure.Sample, error) {
	trip := func() error {
		b, err := a.Alloc(ctx, size)
		if err == nil && b.Len() != size {
			err = fmt.Errorf("%w: a buffer of %d bytes in the place of %d", suite.ErrGarbled, b.Len(), size)
		}
		b.Release()
		return err
	}
	if err := trip(); err != nil { // which takes the memory from the system
		return measure.Sample{}, err
	}
	return timeAlone(d, trip)
}
