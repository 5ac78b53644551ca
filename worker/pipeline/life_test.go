//go:build unix

package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

// A source that ends with an error ends the pipeline with it, when what came before is through.
func TestSourceEndsWithError(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2)
		records := func(yield func(record, error) bool) {
			for i := range 100 {
				if !yield(record{N: i}, nil) {
					return
				}
			}
			yield(record{}, errSource)
		}
		var got collector[answer]
		err := within(t, func() error {
			return pipeline.Through(pipeline.From(records), sum, w).Into(t.Context(), &got)
		})
		require.Equal(t, errSource, err)
		requireAll(t, got.items, 100)
	})
}

// When the context ends the pipeline takes no more, and what it has taken gets through.
func TestContextEndsAndAllIsThrough(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2)
		ctx, cancel := context.WithCancelCause(context.Background())
		stopped := errors.New("stopped")
		var taken int
		records := func(yield func(record, error) bool) {
			for ; yield(record{N: taken}, nil); taken++ {
				if taken == 5000 {
					cancel(stopped)
				}
			}
		}
		var got collector[answer]
		out := pipeline.Through(pipeline.From(records), sum, w)
		require.Equal(t, stopped, within(t, func() error { return out.Into(ctx, &got) }))
		require.GreaterOrEqual(t, len(got.items), 5000)
		requireAll(t, got.items, int(out.Stats().Taken))
		require.Equal(t, out.Stats().Taken, out.Stats().Position)
	})
}

// What is not through in time is given up, and not acknowledged; no handler is waited for.
func TestContextEndsAndTimeIsUp(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2)
		ctx, cancel := context.WithCancel(context.Background())
		l := &ledger{t: t, taken: make(map[pipeline.ID]bool)}
		for i := range 100 {
			l.records = append(l.records, record{N: i})
		}
		l.records[50].Do = "wait " + t.TempDir() + "/never"
		out := pipeline.Through(pipeline.FromSource[record](l), sum, w, pipeline.BatchBy(pipeline.Batches{Records: 10}))
		errs := make(chan error, 1)
		go func() { errs <- out.Into(ctx, l, pipeline.Drain(50*time.Millisecond)) }()
		eventually(t, "some are through", func() bool { return out.Stats().Written >= 40 })
		cancel()
		require.Equal(t, context.Canceled, within(t, func() error { return <-errs }))
		require.LessOrEqual(t, l.acked, uint64(50))
	})
}

// A sink that fails ends the pipeline; what it has not taken is not acknowledged.
func TestSinkFails(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2)
		full := errors.New("the disk is full")
		l := &ledger{t: t, taken: make(map[pipeline.ID]bool)}
		for i := range 5000 {
			l.records = append(l.records, record{N: i})
		}
		sink := sinkFunc[answer](func(ctx context.Context, items []pipeline.Item[answer]) error {
			if len(l.items) > 1000 {
				return full
			}
			return l.Write(ctx, items)
		})
		err := within(t, func() error {
			return pipeline.Through(pipeline.FromSource[record](l), sum, w, pipeline.Ordered(), pipeline.BatchBy(pipeline.Batches{Records: 100})).Into(t.Context(), sink)
		})
		require.ErrorIs(t, err, full)
		require.EqualValues(t, len(l.items), l.acked)
	})
}

type sinkFunc[T any] func(ctx context.Context, items []pipeline.Item[T]) error

func (f sinkFunc[T]) Write(ctx context.Context, items []pipeline.Item[T]) error { return f(ctx, items) }

// panicky is a source that cannot be told anything.
type panicky struct{}

func (panicky) Records(ctx context.Context, _ uint64) iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		for ctx.Err() == nil && yield(record{}, nil) {
			continue
		}
	}
}

func (panicky) Ack(context.Context, uint64) error { panic("what I said") }

// A function of the user's that panics panics where Into was called, and nothing goes on.
func TestPanics(t *testing.T) {
	w := startPool(t, socketName, 1)
	records := func() *pipeline.Flow[record] {
		return pipeline.From(count(10, func(int) record { return record{Do: "fail"} }))
	}
	for what, run := range map[string]func() error{
		"Ack": func() error {
			return pipeline.FromSource[record](panicky{}).Into(t.Context(), new(collector[record]))
		},
		"source": func() error {
			return pipeline.Through(pipeline.From(func(func(record, error) bool) { panic("what I said") }), sum, w).Into(t.Context(), new(collector[answer]))
		},
		"sink": func() error {
			return records().Into(t.Context(), sinkFunc[record](func(context.Context, []pipeline.Item[record]) error { panic("what I said") }))
		},
		"OnError": func() error {
			return pipeline.Through(records(), sum, w, pipeline.OnError(func(context.Context, pipeline.Failure[record]) pipeline.Action { panic("what I said") })).Into(t.Context(), new(collector[answer]))
		},
		"By": func() error {
			return pipeline.Through(records(), sum, w, pipeline.By(func(record) string { panic("what I said") })).Into(t.Context(), new(collector[answer]))
		},
	} {
		t.Run(what, func(t *testing.T) {
			defer func() { require.Contains(t, fmt.Sprint(recover()), "what I said") }()
			err := run()
			t.Fatalf("Into has returned %v", err)
		})
	}
}

// Replace changes the program of a stage while it runs, and nothing is lost, doubled or failed.
func TestReplaceWhileRunning(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2, pool.WithMaxSize(4))
		replaced := make(chan error, 1)
		var started atomic.Bool
		var done atomic.Bool
		records := func(yield func(int, error) bool) {
			for i := 0; !done.Load() || i < 1000; i++ {
				if !yield(i, nil) {
					return
				}
				if i == 500 && !started.Swap(true) {
					go func() { replaced <- w.Replace(context.Background(), worker.Self("other")) }()
				}
			}
		}
		seen := make(map[uint64]bool)
		versions := make(map[string]int)
		sink := sinkFunc[string](func(_ context.Context, items []pipeline.Item[string]) error {
			for _, item := range items {
				require.False(t, seen[item.ID.Pos])
				seen[item.ID.Pos] = true
				versions[item.Record]++
			}
			if versions["two"] > 1000 {
				done.Store(true)
			}
			return nil
		})
		out := pipeline.Through(pipeline.From(records), version, w)
		require.NoError(t, within(t, func() error { return out.Into(t.Context(), sink) }))
		require.NoError(t, <-replaced)
		require.Len(t, seen, int(out.Stats().Taken))
		require.Positive(t, versions["one"])
		require.Positive(t, versions["two"])
		require.Zero(t, out.Stats().Stages[0].Deaths)
	})
}

// The pool grows while a stage needs workers, the stage uses them, and it shrinks again, while
// records flow.
func TestScalingWhileRunning(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 1, pool.WithMaxSize(3), pool.WithConcurrency(1), pool.WithIdle(50*time.Millisecond))
		file := t.TempDir() + "/go"
		used := make(map[int]bool)
		var grown, shrunk bool
		i := 0
		records := func(yield func(record, error) bool) {
			for ; i < 12; i++ { // which need more workers than there are
				if !yield(record{N: i, Do: "wait " + file}, nil) {
					return
				}
			}
			eventually(t, "the pool has grown", func() bool { return w.Stats().Size == 3 })
			grown = true
			touch(t, file)
			eventually(t, "the pool has shrunk", func() bool { return w.Stats().Size == 1 })
			shrunk = true
			for ; i < 2000; i++ {
				if !yield(record{N: i}, nil) {
					return
				}
			}
		}
		var got collector[answer]
		out := pipeline.Through(pipeline.From(records), sum, w, pipeline.BatchBy(pipeline.Batches{Records: 1}))
		require.NoError(t, within(t, func() error { return out.Into(t.Context(), &got) }))
		require.True(t, grown && shrunk)
		requireAll(t, got.items, 2000)
		for _, item := range got.items[:12] {
			used[item.Record.PID] = true
		}
		require.Greater(t, len(used), 1)
		require.Zero(t, out.Stats().Stages[0].Deaths)
	})
}

// Records become several, and several stages follow; each has an id of its own, the same in each run.
func TestFlatten(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2)
		run := func() map[pipeline.ID]answer {
			flow := pipeline.From(count(300, func(i int) record { return record{Data: make([]byte, i%5)} }))
			each := pipeline.Flatten(pipeline.Through(flow, parts, w))
			twice := pipeline.Flatten(pipeline.Apply(each, "twice", func(_ context.Context, a answer) ([]answer, error) {
				b := a
				b.Key = "second"
				return []answer{a, b}, nil
			}))
			out := pipeline.Through(twice, again, w)
			got := make(map[pipeline.ID]answer)
			require.NoError(t, within(t, func() error {
				return out.Into(t.Context(), sinkFunc[answer](func(_ context.Context, items []pipeline.Item[answer]) error {
					for _, item := range items {
						_, twice := got[item.ID]
						require.False(t, twice, item.ID)
						got[item.ID] = item.Record
					}
					return nil
				}))
			}))
			require.EqualValues(t, 300, out.Stats().Position)
			return got
		}
		got := run()
		require.Len(t, got, 2*300/5*(0+1+2+3+4))
		for id, a := range got {
			require.EqualValues(t, id.Pos, a.N)
			require.Equal(t, id.Path, fmt.Sprint(a.Sum)) // which is one more than the index, as the part is
			require.Equal(t, id.Part == 2, a.Key == "second")
			require.Equal(t, fmt.Sprintf("%d/%d/%d", id.Pos, a.Sum, id.Part), id.String())
		}
		require.Equal(t, got, run())
	})
}

// Apply has the actions of stages.
func TestApply(t *testing.T) {
	var numbers iter.Seq2[int, error] = func(yield func(int, error) bool) {
		for i := range 100 {
			if !yield(i, nil) {
				return
			}
		}
	}
	odd := errors.New("odd")
	tries := make(map[int]int)
	half := func(_ context.Context, n int) (string, error) {
		tries[n]++
		if n%2 == 1 {
			return "", odd
		}
		return strings.Repeat("x", n/2), nil
	}
	var buried []int
	run := func(then pipeline.Action) ([]int, pipeline.Stats, error) {
		clear(tries)
		buried = nil
		var lengths []int
		out := pipeline.Apply(pipeline.From(numbers, pipeline.Size(100)), "half", half, pipeline.Attempts[int](2, time.Microsecond, then),
			pipeline.DeadLetter(func(_ context.Context, f pipeline.Failure[int]) error {
				require.Equal(t, odd, f.Err)
				buried = append(buried, f.Record)
				return nil
			}))
		err := out.Into(t.Context(), pipeline.SinkFunc[string](func(_ context.Context, s string) error {
			lengths = append(lengths, len(s))
			return nil
		}))
		return lengths, out.Stats(), err
	}
	for name, then := range map[string]pipeline.Action{"skip": pipeline.Skip, "bury": pipeline.Bury} {
		t.Run(name, func(t *testing.T) {
			lengths, s, err := run(then)
			require.NoError(t, err)
			require.Len(t, lengths, 50)
			require.EqualValues(t, 100, s.Position)
			left, ok := s.Remaining()
			require.True(t, ok)
			require.Zero(t, left)
			require.Equal(t, 2, tries[1])
			require.Equal(t, 1, tries[2])
			require.Len(t, buried, map[string]int{"skip": 0, "bury": 50}[name])
		})
	}
	_, _, err := run(pipeline.Fail)
	require.ErrorIs(t, err, odd)
}

// Options for records of another type, and types that cannot be sent again, are found before anything runs.
func TestWrongOptions(t *testing.T) {
	w := startPool(t, socketName, 1)
	flow := pipeline.From(count(1, func(int) record { return record{} }))
	carry := ipc.NewMethod[ipc.Buffer, int]("test.carry")
	for what, f := range map[string]func(){
		"By":      func() { pipeline.Through(flow, sum, w, pipeline.By(func(string) string { return "" })) },
		"OnError": func() { pipeline.Through(flow, sum, w, pipeline.Attempts[string](1, 0, pipeline.Fail)) },
		"choose one": func() {
			pipeline.Through(flow, sum, w, pipeline.Ordered(), pipeline.By(func(record) string { return "" }))
		},
		"buffers or files": func() {
			pipeline.Through[ipc.Buffer, int](pipeline.From(func(func(ipc.Buffer, error) bool) {}), carry, w)
		},
		"window of 0 bytes": func() { pipeline.Window(0) },
		"Hang(0s)":          func() { pipeline.Hang(0) },
		"Deaths(0)":         func() { pipeline.Deaths(0) },
		"0 batches":         func() { pipeline.InFlight(0) },
		"nil flow":          func() { pipeline.Through[record, answer](nil, sum, w) },
		"Into with a nil":   func() { _ = flow.Into(t.Context(), nil) },
		"span 5 to 3": func() {
			_ = flow.Into(t.Context(), new(collector[record]), pipeline.Resume(pipeline.Checkpoint{Position: 9, InFlight: []pipeline.Span{{From: 5, To: 3}}}))
		},
	} {
		t.Run(what, func(t *testing.T) {
			defer func() { require.Contains(t, fmt.Sprint(recover()), what) }()
			f()
		})
	}
}
