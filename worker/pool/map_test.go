//go:build unix

package pool_test

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pool"
)

var square = ipc.NewMethod[int, int]("map.square")

var errOdd = errors.New("odd")

// inProcess is a caller that calls a function.
type inProcess func(ctx context.Context, n int) (int, error)

func (inProcess) Codec() ipc.Codec { return ipc.CBOR }

func (f inProcess) Invoke(ctx context.Context, _ *ipc.Invocation, request, memory []byte) ([]byte, error) {
	n, err := ipc.Unmarshal[int](ipc.CBOR, request)
	if err != nil {
		return nil, err
	}
	if n, err = f(ctx, n); err != nil {
		return nil, err
	}
	return ipc.Marshal(ipc.CBOR, memory, n)
}

func squares(_ context.Context, n int) (int, error) { return n * n, nil }

// upTo yields 0 to n-1.
func upTo(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

func TestMap(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, window := range []int{1, 3, 100} {
		results := pool.Map(t.Context(), inProcess(squares), square, upTo(50), pool.WithWindow(window))
		for range 2 { // it can be repeated
			next := 0
			for n, err := range results {
				require.NoError(t, err)
				require.Equal(t, next*next, n, "in order")
				next++
			}
			require.Equal(t, 50, next)
		}
		var all []int
		for n, err := range pool.Map(t.Context(), inProcess(squares), square, upTo(50), pool.WithWindow(window), pool.WithUnordered()) {
			require.NoError(t, err)
			all = append(all, n)
		}
		slices.Sort(all)
		require.Len(t, all, 50)
		for i, n := range all {
			require.Equal(t, i*i, n)
		}
	}
	for range pool.Map(t.Context(), inProcess(squares), square, upTo(0)) {
		t.Error("a result of nothing")
	}
	require.Panics(t, func() { pool.WithWindow(0) })
}

// A slow call holds up the others only if they are to be in order.
func TestMapOrder(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	release := make(chan struct{})
	slowFirst := inProcess(func(_ context.Context, n int) (int, error) {
		if n == 0 {
			<-release
		}
		return n, nil
	})
	var got []int
	for n, err := range pool.Map(t.Context(), slowFirst, square, upTo(5), pool.WithUnordered(), pool.WithWindow(2)) {
		require.NoError(t, err)
		if got = append(got, n); len(got) == 4 {
			close(release)
		}
	}
	require.Equal(t, 0, got[4])
	require.ElementsMatch(t, []int{0, 1, 2, 3, 4}, got)
}

// No more requests are taken than fit into the window, whoever is slow.
func TestMapIsBounded(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, opts := range [][]pool.MapOption{{}, {pool.WithUnordered()}} {
		var taken, calls, most atomic.Int64
		count := inProcess(func(_ context.Context, n int) (int, error) {
			most.Store(max(most.Load(), calls.Add(1)))
			runtime.Gosched()
			calls.Add(-1)
			return n, nil
		})
		endless := func(yield func(int) bool) {
			for yield(int(taken.Add(1))) {
			}
		}
		yielded := int64(0)
		for _, err := range pool.Map(t.Context(), count, square, endless, append(opts, pool.WithWindow(4))...) {
			require.NoError(t, err)
			require.LessOrEqual(t, taken.Load(), yielded+4+1, "4, and one that the sequence has at hand")
			if yielded++; yielded == 200 {
				break
			}
		}
		require.LessOrEqual(t, most.Load(), int64(4))
	}
}

func TestMapErrors(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	odd := inProcess(func(_ context.Context, n int) (int, error) {
		if n%2 == 1 {
			return 0, errOdd
		}
		return n, nil
	})
	var got []int
	var failed error
	for n, err := range pool.Map(t.Context(), odd, square, upTo(10)) {
		require.NoError(t, failed, "the loop ends after an error")
		if failed = err; err == nil {
			got = append(got, n)
		}
	}
	var e *pool.MapError
	require.ErrorAs(t, failed, &e)
	require.Equal(t, 1, e.Index)
	require.ErrorIs(t, failed, errOdd)
	require.ErrorContains(t, failed, "request 1: odd")
	require.Equal(t, []int{0}, got)

	got = nil
	var indexes []int
	for n, err := range pool.Map(t.Context(), odd, square, upTo(6), pool.WithContinueOnError()) {
		if errors.As(err, &e) {
			indexes = append(indexes, e.Index)
		} else {
			got = append(got, n)
		}
	}
	require.Equal(t, []int{0, 2, 4}, got)
	require.Equal(t, []int{1, 3, 5}, indexes)
}

// However a loop ends, its calls are cancelled and nothing is left.
func TestMapEnds(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	endless := func(yield func(int) bool) {
		for n := 0; yield(n); n++ {
		}
	}
	var running atomic.Int64
	blockAfter10 := inProcess(func(ctx context.Context, n int) (int, error) {
		if n < 10 {
			return n, nil
		}
		running.Add(1)
		defer running.Add(-1)
		<-ctx.Done()
		return 0, ctx.Err()
	})
	for _, opts := range [][]pool.MapOption{{}, {pool.WithUnordered()}, {pool.WithContinueOnError()}, {pool.WithUnordered(), pool.WithContinueOnError()}} {
		opts = append(opts, pool.WithWindow(4))
		for range pool.Map(t.Context(), blockAfter10, square, endless, opts...) {
			break
		}
		require.Zero(t, running.Load(), "break")

		require.PanicsWithValue(t, "body", func() {
			for range pool.Map(t.Context(), blockAfter10, square, endless, opts...) {
				panic("body")
			}
		})
		require.Zero(t, running.Load(), "a panic of the body")

		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		var last error
		n := 0
		for _, err := range pool.Map(ctx, blockAfter10, square, endless, opts...) {
			require.NoError(t, last, "the loop ends with its context")
			last = err
			if n++; n == 10 {
				cancel(cause)
			}
		}
		cancel(nil)
		require.Equal(t, cause, last)
		require.Zero(t, running.Load())

		n = 0
		require.PanicsWithValue(t, "sequence", func() {
			for range pool.Map(t.Context(), inProcess(squares), square, func(yield func(int) bool) {
				yield(1)
				yield(2)
				panic("sequence")
			}, opts...) {
				n++
			}
		})
		require.Equal(t, 2, n, "what came before the panic is yielded")

		exited := make(chan bool, 1)
		go func() {
			defer func() { exited <- true }()
			for range pool.Map(context.Background(), inProcess(squares), square, func(yield func(int) bool) {
				yield(1)
				runtime.Goexit()
			}, opts...) {
			}
			exited <- false
		}()
		require.True(t, <-exited, "Goexit of the sequence ends the loop's goroutine")
	}
}

// Sequences that do not stop when they are told to.
func TestMapHostileSequences(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	require.Panics(t, func() {
		for range pool.Map(t.Context(), inProcess(squares), square, func(yield func(int) bool) {
			for n := range 1000 {
				yield(n) // whatever it returns
			}
		}) {
			break
		}
	})
	// One that blocks until its context ends delays nothing that is ready.
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	var last error
	for _, err := range pool.Map(ctx, inProcess(squares), square, func(yield func(int) bool) {
		yield(1)
		<-ctx.Done()
	}) {
		if last = err; err == nil {
			n++
			cancel()
		}
	}
	cancel()
	require.Equal(t, 1, n)
	if last != nil { // the sequence may have ended first
		require.ErrorIs(t, last, context.Canceled)
	}
}

// Results that the requests depend on come without waiting for further requests.
func TestMapPingPong(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	answers := make(chan int, 1)
	answers <- 2
	n := 0
	for res, err := range pool.Map(t.Context(), inProcess(squares), square, func(yield func(int) bool) {
		for a := range answers {
			if !yield(a) {
				return
			}
		}
	}) {
		require.NoError(t, err)
		if n++; n == 4 {
			close(answers)
		} else {
			answers <- res
		}
	}
	require.Equal(t, 4, n)
}

// Map leaves places in the queue alone: its calls wait even if it is full.
func TestMapOverPool(t *testing.T) {
	eachPool(t, func(t *testing.T, d pooler) {
		p, _ := d.start(t, 2, pool.WithConcurrency(1), pool.WithQueue(0))
		defer p.Close()
		requests := func(yield func(pair) bool) {
			for i := range 500 {
				if !yield(pair{i, i}) {
					return
				}
			}
		}
		for _, opts := range [][]pool.MapOption{nil, {pool.WithWindow(10)}} {
			next := 0
			for sum, err := range pool.Map(t.Context(), p, add, requests, opts...) {
				require.NoError(t, err)
				require.Equal(t, 2*next, sum)
				next++
			}
			require.Equal(t, 500, next)
		}
		for sum, err := range pool.Map(t.Context(), p.For("key"), add, requests, pool.WithWindow(3)) {
			require.NoError(t, err)
			if sum > 100 {
				break
			}
		}
		require.LessOrEqual(t, p.Stats().Running, 2)

		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		for _, err := range pool.Map(ctx, p, block, func(yield func(string) bool) {
			for yield("x") {
			}
		}, pool.WithContinueOnError()) {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.Zero(t, p.Stats().Running+p.Stats().Queued)
	})
}
