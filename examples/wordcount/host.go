package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

const (
	// chunkSize is how much of a file is sent at a time, in bytes.
	chunkSize = 1 << 20
	// inFlight is how many chunks are on their way to each worker: one that is
	// counted, and others that have arrived when it is done.
	inFlight = 4
	// wordBatch is how many words are sent at a time.
	wordBatch = 16 << 10
	// maxMessage bounds what either side accepts at a time: a chunk, or a batch
	// of words of maxWord bytes.
	maxMessage = 8 << 20
)

// process is a worker's process.
type process struct {
	ipc.Caller
	drivers.Process
	close func() error

	calls, bytes atomic.Int64 // for chunks
}

// slot is the right to have one chunk in flight, and its memory. There are
// inFlight slots for each worker, so that memory is bounded and a worker gets
// work as fast as it does it.
type slot struct {
	*process
	buf []byte
}

// Host counts files with the help of workers.
type Host struct {
	workers []*process
	slots   chan *slot
	cancel  context.CancelCauseFunc

	// Progress is called with the bytes that were counted just now, Unreadable
	// for each file that cannot be read to its end. Both are called concurrently.
	Progress   func(bytes int)
	Unreadable func(error)

	mu     sync.Mutex
	totals Totals
	files  int
}

// start starts n workers, all at the same time. The context that it returns
// ends when a worker does, busy or not, with its exit as the cause.
func start[C drivers.Channel](ctx context.Context, driver drivers.Driver[C], n int) (*Host, context.Context, error) {
	h := &Host{workers: make([]*process, n), slots: make(chan *slot, n*inFlight)}
	ctx, h.cancel = context.WithCancelCause(ctx)
	g, spawnCtx := errgroup.WithContext(ctx)
	for i := range h.workers {
		g.Go(func() error {
			w, err := worker.Spawn(spawnCtx, worker.Self(workerName), driver, worker.WithMaxMessage(maxMessage))
			if err != nil {
				return err
			}
			h.workers[i] = &process{Caller: w, Process: w.Channel().Process(), close: w.Close}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		h.workers = slices.DeleteFunc(h.workers, func(p *process) bool { return p == nil })
		_ = h.Close() // the first error is the one that matters
		return nil, nil, err
	}
	for range inFlight {
		for _, p := range h.workers {
			h.slots <- &slot{process: p, buf: make([]byte, chunkSize)}
		}
	}
	for _, p := range h.workers {
		go func() {
			select {
			case <-p.Done():
				h.cancel(p.Exit())
			case <-ctx.Done():
			}
		}()
	}
	return h, ctx, nil
}

// Close ends the workers. It returns how those ended that did not end well.
func (h *Host) Close() error {
	h.cancel(ipc.ErrClosed)
	errs := make([]error, len(h.workers))
	var wg sync.WaitGroup
	for i, p := range h.workers {
		wg.Go(func() { errs[i] = p.close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Count counts files. That some cannot be read is no error.
func (h *Host) Count(ctx context.Context, files []file) error {
	g, groupCtx := errgroup.WithContext(ctx)
	g.SetLimit(cap(h.slots)) // a file that is being read holds a slot
	for _, f := range files {
		if groupCtx.Err() != nil {
			break
		}
		g.Go(func() error { return h.countFile(groupCtx, f.name) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return context.Cause(ctx)
}

func (h *Host) countFile(ctx context.Context, name string) error {
	f, err := os.Open(name)
	if err != nil {
		h.Unreadable(err)
		return nil
	}
	defer f.Close()
	parts, readErr, err := h.send(ctx, f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var whole Part
	var cut [][]byte // words that were, so that no worker's table has them yet
	for i, p := range parts {
		if i == 0 {
			whole = *p
			continue
		}
		whole = join(whole, *p, func(word []byte) { cut = append(cut, word) })
	}
	if err := h.countWords(ctx, cut); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	h.mu.Lock()
	h.totals.add(whole.Totals)
	if readErr == nil {
		h.files++
	}
	h.mu.Unlock()
	if readErr != nil {
		h.Unreadable(readErr) // what could be read counts, as it does for wc
	}
	return nil
}

// send sends what r holds to whichever workers are free, and returns its parts
// in order, and why it could not be read to its end if so.
func (h *Host) send(ctx context.Context, r io.Reader) (parts []*Part, readErr, err error) {
	g, groupCtx := errgroup.WithContext(ctx)
	for last := false; !last; {
		s, err := h.take(groupCtx)
		if err != nil {
			return nil, nil, cmp.Or(g.Wait(), err)
		}
		n, err := io.ReadFull(r, s.buf)
		last = err != nil
		if last && err != io.EOF && err != io.ErrUnexpectedEOF {
			readErr = err
		}
		part := new(Part)
		parts = append(parts, part)
		chunk := Chunk{Text: s.buf[:n], First: len(parts) == 1, Last: last}
		g.Go(func() (err error) {
			defer h.give(s)
			if *part, err = CountText.Call(groupCtx, s, chunk); err != nil {
				return s.failed(err)
			}
			s.calls.Add(1)
			s.bytes.Add(int64(n))
			h.Progress(n)
			return nil
		})
	}
	return parts, readErr, g.Wait()
}

func (h *Host) countWords(ctx context.Context, words [][]byte) error {
	for batch := range slices.Chunk(words, wordBatch) {
		s, err := h.take(ctx)
		if err != nil {
			return err
		}
		_, err = CountWords.Call(ctx, s, batch)
		h.give(s)
		if err != nil {
			return s.failed(err)
		}
	}
	return nil
}

// failed adds which worker an error is from, unless it says so itself.
func (p *process) failed(err error) error {
	var remote *ipc.Error
	if errors.As(err, &remote) {
		return fmt.Errorf("worker (pid %d): %w", p.PID(), err)
	}
	return err
}

// take waits for a free slot.
func (h *Host) take(ctx context.Context) (*slot, error) {
	select {
	case s := <-h.slots:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h *Host) give(s *slot) { h.slots <- s }

// MostFrequent returns the n most frequent words.
func (h *Host) MostFrequent(ctx context.Context, n int) ([]Entry, error) {
	callers := make([]ipc.Caller, len(h.workers))
	for i, p := range h.workers {
		callers[i] = p
	}
	words, err := mostFrequent(ctx, callers, n)
	if errors.Is(err, context.Canceled) {
		err = context.Cause(ctx)
	}
	return words, err
}
