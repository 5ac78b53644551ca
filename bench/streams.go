package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
)

// opening opens a stream and waits for its first item. The rest of it is not timed.
type opening struct {
	to     ipc.Caller
	size   int
	asked  []byte
	number uint64
	stream *ipc.ServerStreamCall[[]byte]
	item   []byte
}

func newOpening(to ipc.Caller, size int) *opening {
	return &opening{to: to, size: size, asked: make([]byte, size)}
}

func (o *opening) Prepare(seq uint64) {
	o.number = seq
	suite.Stamp(o.asked, seq)
}

func (o *opening) Do(ctx context.Context) (err error) {
	if o.stream, err = bytesOnce.Open(ctx, o.to, o.asked); err == nil {
		o.item, err = o.stream.Receive(ctx)
	}
	return err
}

func (o *opening) Check() error {
	defer o.stream.Close()
	if !bytes.Equal(o.item, o.asked) {
		return fmt.Errorf("%w: sent %x, got %x", suite.ErrGarbled, o.asked, o.item)
	}
	if _, err := o.stream.Receive(context.Background()); err != io.EOF {
		return fmt.Errorf("%w: one item, and then an item or %w", suite.ErrGarbled, err)
	}
	return nil
}

// callsBesideStream measures calls of w for d while items come from other as fast as they can.
func callsBesideStream(ctx context.Context, w, other *suite.Worker, d time.Duration) (measure.Sample, error) {
	streaming, end := context.WithCancel(ctx)
	defer end()
	var n uint64
	var took time.Duration
	ended := make(chan error, 1)
	load := rawLoad(w, inPlace, 64, 1)
	begun := false
	load.Begin = func() {
		begun = true
		go func() {
			start := measure.Now()
			var err error
			n, err = passBytesDown(streaming, other, bulkItem, time.Hour)
			took = measure.Now() - start
			ended <- err
		}()
	}
	s, err := load.Run(ctx, d)
	end()
	if !begun {
		return s, err
	}
	if ending := <-ended; err == nil && !errors.Is(ending, context.Canceled) {
		err = fmt.Errorf("the stream has ended before the calls: %w", ending)
	}
	s.Note = fmt.Sprintf("stream: %s B/s", report.Count(float64(n)*bulkItem/took.Seconds()))
	return s, other.Blame(err)
}
