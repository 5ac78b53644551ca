package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// loop is both sides of a link within this process: what is registered with it serves the streams
// that are opened with it. Each direction of a stream has room for window items.
type loop struct {
	window   int
	draining chan struct{}
	mu       sync.Mutex
	serve    map[uint64]func(context.Context, ipc.Stream, <-chan struct{}) error
	serving  sync.WaitGroup
}

func newLoop(t testing.TB, window int) *loop {
	l := &loop{window: window, draining: make(chan struct{}), serve: make(map[uint64]func(context.Context, ipc.Stream, <-chan struct{}) error)}
	t.Cleanup(l.serving.Wait)
	return l
}

func (l *loop) RegisterStream(m ipc.MethodInfo, serve func(context.Context, ipc.Stream, <-chan struct{}) error) (remove func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serve[m.ID] != nil {
		panic("registered twice")
	}
	l.serve[m.ID] = serve
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.serve, m.ID)
	}
}

func (l *loop) Codec() ipc.Codec { return ipc.JSON }

func (l *loop) Invoke(context.Context, *ipc.Invocation, []byte, []byte) ([]byte, error) {
	return nil, ipc.ErrUnsupported
}

func (l *loop) OpenStream(ctx context.Context, call *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	l.mu.Lock()
	serve := l.serve[call.Method.ID]
	l.mu.Unlock()
	if serve == nil {
		return nil, ipc.Errorf(ipc.CodeUnimplemented, "no handler for %q", call.Method.Name)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	up, down := make(chan []byte, max(l.window, 1)), make(chan []byte, l.window)
	if o.First != nil {
		up <- slices.Clone(o.First)
	}
	over := make(chan error, 1)
	served, end := context.WithCancel(ctx)
	l.serving.Go(func() {
		defer end()
		err := serve(served, &loopEnd{ctx: ctx, in: up, out: down}, l.draining)
		if err == nil {
			err = io.EOF
		} else {
			err = ipc.ParseError(ipc.AppendError(nil, err))
		}
		over <- err
		close(down)
	})
	return &loopEnd{ctx: ctx, in: down, out: up, over: over, cancel: cancel}, nil
}

// loopEnd is one end of a stream.
type loopEnd struct {
	ipc.Stream // what topics do not use
	ctx        context.Context
	in, out    chan []byte
	over       chan error // of the end that has opened it
	ended      error
	cancel     context.CancelCauseFunc
}

func (e *loopEnd) Send(ctx context.Context, item []byte) error {
	select {
	case e.out <- slices.Clone(item):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
}

func (e *loopEnd) Flush(context.Context) error { return nil }

func (e *loopEnd) Receive(ctx context.Context) ([]byte, error) {
	if e.ctx.Err() != nil {
		return nil, context.Cause(e.ctx)
	}
	select {
	case b, ok := <-e.in:
		if ok {
			return b, nil
		}
		if e.ended == nil {
			e.ended = <-e.over
		}
		return nil, e.ended
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-e.ctx.Done():
		return nil, context.Cause(e.ctx)
	}
}

func (e *loopEnd) Close() { e.cancel(ipc.ErrClosed) }

// follower is the oracle of a subscriber: each record is the next one, or follows those that were told
// as lost.
type follower struct {
	next           uint64 // 0: the first one that comes
	received, lost uint64
	wrong          error
}

// saw takes one element of a sequence of records that are numbered from 1 on. It returns false at the
// end.
func (f *follower) saw(n uint64, err error) bool {
	var lost *ipc.LostError
	switch {
	case errors.As(err, &lost):
		if lost.Count == 0 || f.next == 0 && f.received > 0 {
			f.fail("%d records are lost at %d", lost.Count, f.next)
		}
		f.lost += lost.Count
		f.next += lost.Count
	case err != nil:
		return false
	case f.next != 0 && n != f.next:
		f.fail("record %d where %d is next", n, f.next)
	default:
		f.received++
		f.next = n + 1
	}
	return f.wrong == nil
}

func (f *follower) fail(format string, args ...any) {
	if f.wrong == nil {
		f.wrong = fmt.Errorf(format, args...)
	}
}

// all takes what is left of a subscription, and returns how it has ended: nil for that of a publisher that
// was closed.
func (f *follower) all(t testing.TB, s *ipc.Subscription[uint64], each func()) error {
	for {
		n, err := s.Receive(context.Background())
		if !f.saw(n, err) {
			require.NoError(t, f.wrong)
			if err == io.EOF {
				return nil
			}
			return err
		}
		if each != nil {
			each()
		}
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		require.Less(t, time.Since(start), time.Minute, "still not")
	}
}
