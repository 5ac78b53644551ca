//go:build unix

package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

// bothWays runs a test with each driver, and with both kinds of handlers.
func bothWays(t *testing.T, f func(t *testing.T, driver string, m *ipc.Method[record, answer])) {
	onBoth(t, func(t *testing.T, driver string) {
		t.Run("batches", func(t *testing.T) { f(t, driver, sum) })
		t.Run("plain handlers", func(t *testing.T) { f(t, driver, sumPlain) })
	})
}

// requireAll checks that what was collected are the records from 0 to n, but for some.
func requireAll(t *testing.T, items []pipeline.Item[answer], n int, but ...int) {
	t.Helper()
	var got []int
	for _, item := range items {
		require.EqualValues(t, item.ID.Pos, item.Record.N)
		got = append(got, item.Record.N)
	}
	slices.Sort(got)
	var want []int
	for i := range n {
		if !slices.Contains(but, i) {
			want = append(want, i)
		}
	}
	require.Equal(t, want, got)
}

// letters are dead letters.
type letters struct {
	mu  sync.Mutex
	all []pipeline.Failure[record]
}

func (l *letters) take(_ context.Context, f pipeline.Failure[record]) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, f)
	return nil
}

// A record that ends its workers becomes a dead letter after so many of them, with the last
// ExitError. It is blamed alone: the others of its batch and of its workers are through.
func TestRecordThatKillsBecomesDeadLetter(t *testing.T) {
	bothWays(t, func(t *testing.T, driver string, m *ipc.Method[record, answer]) {
		w := startPool(t, driver, 2)
		for _, do := range []string{"die", "exit"} {
			var dead letters
			var got collector[answer]
			records := count(2000, func(i int) record {
				if i == 700 || i == 701 || i == 1500 {
					return record{Do: do}
				}
				return record{}
			})
			before := w.Stats().Restarts
			out := pipeline.Through(pipeline.From(records), m, w, pipeline.DeadLetter(dead.take), pipeline.Deaths(2))
			require.NoError(t, within(t, func() error { return out.Into(t.Context(), &got) }))
			requireAll(t, got.items, 2000, 700, 701, 1500)
			require.Len(t, dead.all, 3)
			for _, f := range dead.all {
				require.Equal(t, do, f.Record.Do)
				require.EqualValues(t, f.ID.Pos, f.Record.N)
				require.Equal(t, m.Info().Name, f.Stage)
				var exit *worker.ExitError
				require.ErrorAs(t, f.Err, &exit)
				if do == "die" {
					require.Equal(t, syscall.SIGKILL, exit.Signal)
				} else {
					require.Equal(t, 7, exit.Code)
				}
			}
			s := out.Stats().Stages[0]
			require.EqualValues(t, 3, s.DeadLetters)
			require.EqualValues(t, 2000, out.Stats().Position)
			// Each has ended one worker among others, and two by itself.
			require.Eventually(t, func() bool { return w.Stats().Size == 2 }, time.Minute, time.Millisecond)
			require.LessOrEqual(t, w.Stats().Restarts-before, uint64(9))
		}
	})
}

// Without a function for dead letters the pipeline fails with the ExitError, and the source is
// told to forget nothing that was not taken.
func TestRecordThatKillsFailsThePipeline(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2)
		l := &ledger{t: t, taken: make(map[pipeline.ID]bool)}
		for i := range 100 {
			l.records = append(l.records, record{N: i})
		}
		l.records[50].Do = "die"
		err := within(t, func() error { return pipeline.Through(pipeline.FromSource[record](l), sum, w).Into(t.Context(), l) })
		var stage *pipeline.StageError
		require.ErrorAs(t, err, &stage)
		require.Equal(t, "test.sum", stage.Stage)
		require.EqualValues(t, 50, stage.ID.Pos)
		var exit *worker.ExitError
		require.ErrorAs(t, err, &exit)
		require.LessOrEqual(t, l.acked, uint64(50))
	})
}

// A handler that does not return, and a worker that is stopped, are found; what they had goes to
// others.
func TestWhatHangsIsFound(t *testing.T) {
	for _, do := range []string{"hang", "stop"} {
		t.Run(do, func(t *testing.T) {
			bothWays(t, func(t *testing.T, driver string, m *ipc.Method[record, answer]) {
				w := startPool(t, driver, 3, pool.WithConcurrency(4), pool.WithWorkers(worker.WithGrace(50*time.Millisecond)))
				file := t.TempDir() + "/once"
				var got collector[answer]
				records := count(1000, func(i int) record {
					if i == 500 {
						return record{Do: "once " + file + " " + do}
					}
					return record{}
				})
				out := pipeline.Through(pipeline.From(records), m, w, pipeline.Hang(time.Second), pipeline.Deaths(10))
				require.NoError(t, within(t, func() error { return out.Into(t.Context(), &got) }))
				requireAll(t, got.items, 1000)
				require.Positive(t, out.Stats().Stages[0].Hangs)
			})
		})
	}
}

// A record whose handler never returns becomes a dead letter.
func TestRecordThatHangsBecomesDeadLetter(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2, pool.WithConcurrency(16), pool.WithWorkers(worker.WithGrace(50*time.Millisecond)))
		var dead letters
		var got collector[answer]
		records := count(300, func(i int) record {
			if i == 100 {
				return record{Do: "hang"}
			}
			return record{}
		})
		out := pipeline.Through(pipeline.From(records), sum, w, pipeline.Hang(time.Second), pipeline.Deaths(3), pipeline.DeadLetter(dead.take))
		require.NoError(t, within(t, func() error { return out.Into(t.Context(), &got) }))
		requireAll(t, got.items, 300, 100)
		require.Len(t, dead.all, 1)
		require.ErrorIs(t, dead.all[0].Err, context.DeadlineExceeded)
	})
}

// What becomes of a record whose handler fails is said for each record.
func TestErrorsOfRecords(t *testing.T) {
	bothWays(t, func(t *testing.T, driver string, m *ipc.Method[record, answer]) {
		w := startPool(t, driver, 2)
		run := func(records int, do func(i int) string, opts ...pipeline.Option) (*collector[answer], pipeline.Stats, error) {
			var got collector[answer]
			out := pipeline.Through(pipeline.From(count(records, func(i int) record { return record{Do: do(i)} })), m, w, opts...)
			err := within(t, func() error { return out.Into(t.Context(), &got) })
			return &got, out.Stats(), err
		}
		bad := func(i int) string {
			switch i {
			case 10, 11, 600:
				return "fail " + fmt.Sprint(i)
			case 20:
				return "panic " + fmt.Sprint(i)
			}
			return ""
		}
		t.Run("fail", func(t *testing.T) {
			_, _, err := run(1000, bad, pipeline.Ordered())
			var e *ipc.Error
			require.ErrorAs(t, err, &e)
			require.True(t, e.Remote())
			var stage *pipeline.StageError
			require.ErrorAs(t, err, &stage)
			require.Contains(t, []uint64{10, 11, 20, 600}, stage.ID.Pos)
		})
		t.Run("skip", func(t *testing.T) {
			var mu sync.Mutex
			errs := make(map[int]error)
			got, s, err := run(1000, bad, pipeline.OnError(func(_ context.Context, f pipeline.Failure[record]) pipeline.Action {
				mu.Lock()
				defer mu.Unlock()
				errs[f.Record.N] = f.Err
				if f.Attempt != 1 || f.ID.Pos != uint64(f.Record.N) {
					t.Errorf("%+v", f)
				}
				return pipeline.Skip
			}))
			require.NoError(t, err)
			requireAll(t, got.items, 1000, 10, 11, 20, 600)
			require.EqualValues(t, 4, s.Stages[0].Skipped)
			require.EqualValues(t, 1000, s.Position)
			require.Len(t, errs, 4)
			require.ErrorContains(t, errs[11], "no good: 11")
			var e *ipc.Error
			require.ErrorAs(t, errs[20], &e)
			require.Equal(t, ipc.CodeInternal, e.Code)
			require.NotEmpty(t, e.Stack)
		})
		t.Run("dead letter", func(t *testing.T) {
			var dead letters
			got, s, err := run(1000, bad, pipeline.Ordered(), pipeline.DeadLetter(dead.take),
				pipeline.OnError(func(context.Context, pipeline.Failure[record]) pipeline.Action { return pipeline.Bury }))
			require.NoError(t, err)
			requireAll(t, got.items, 1000, 10, 11, 20, 600)
			require.Len(t, dead.all, 4)
			require.EqualValues(t, 4, s.Stages[0].DeadLetters)
			require.True(t, slices.IsSortedFunc(got.items, func(a, b pipeline.Item[answer]) int { return a.Record.N - b.Record.N }))
		})
		t.Run("dead letters that cannot be taken", func(t *testing.T) {
			full := errors.New("the disk is full")
			_, _, err := run(1000, bad, pipeline.DeadLetter(func(context.Context, pipeline.Failure[record]) error { return full }),
				pipeline.OnError(func(context.Context, pipeline.Failure[record]) pipeline.Action { return pipeline.Bury }))
			require.ErrorIs(t, err, full)
		})
		t.Run("retry", func(t *testing.T) {
			dir := t.TempDir()
			once := func(i int) string {
				if i%100 == 7 {
					return fmt.Sprintf("once %s/%d fail", dir, i)
				}
				return ""
			}
			got, s, err := run(1000, once, pipeline.Ordered(), pipeline.Attempts[record](3, time.Microsecond, pipeline.Fail))
			require.NoError(t, err)
			requireAll(t, got.items, 1000)
			require.EqualValues(t, 10, s.Stages[0].Retries)
		})
		t.Run("retry in vain", func(t *testing.T) {
			var mu sync.Mutex
			attempts := make(map[int][]int)
			got, _, err := run(1000, bad, pipeline.OnError(func(_ context.Context, f pipeline.Failure[record]) pipeline.Action {
				mu.Lock()
				defer mu.Unlock()
				attempts[f.Record.N] = append(attempts[f.Record.N], f.Attempt)
				if f.Attempt < 4 {
					return pipeline.Retry(time.Microsecond)
				}
				return pipeline.Skip
			}))
			require.NoError(t, err)
			requireAll(t, got.items, 1000, 10, 11, 20, 600)
			for _, n := range []int{10, 11, 20, 600} {
				require.Equal(t, []int{1, 2, 3, 4}, attempts[n])
			}
		})
	})
}

// A method without a handler is an error of each record that says so.
func TestNoHandler(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 1)
		err := within(t, func() error {
			return pipeline.Through(pipeline.From(count(10, func(int) record { return record{} })), none, w).Into(t.Context(), new(collector[answer]))
		})
		var e *ipc.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, ipc.CodeUnimplemented, e.Code)
	})
}

// Where there will be no worker any more the pipeline fails, and says why.
func TestNoWorkers(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		records := func() *pipeline.Flow[record] {
			return pipeline.From(count(1000, func(int) record { return record{} }))
		}
		t.Run("the pool is closed", func(t *testing.T) {
			w := startPool(t, driver, 1)
			require.NoError(t, w.Close())
			err := within(t, func() error { return pipeline.Through(records(), sum, w).Into(t.Context(), new(collector[answer])) })
			require.ErrorIs(t, err, ipc.ErrClosed)
		})
		t.Run("the pool has given up", func(t *testing.T) {
			w := startPool(t, driver, 1, pool.WithWorkers(worker.WithRestart(worker.Restart{Delay: time.Millisecond, MaxRestarts: 1})))
			die := pipeline.From(count(1000, func(i int) record { return record{Do: "die"} }))
			err := within(t, func() error {
				return pipeline.Through(die, sum, w, pipeline.Deaths(100)).Into(t.Context(), new(collector[answer]))
			})
			var exit *worker.ExitError
			require.ErrorAs(t, err, &exit)
			require.ErrorContains(t, err, "given up")
		})
	})
	t.Run("the only worker has ended", func(t *testing.T) {
		cmd := worker.Self("test")
		cmd.Stderr = io.Discard
		c, err := worker.Spawn(t.Context(), cmd, shm.Driver{})
		if errors.Is(err, ipc.ErrUnsupported) {
			t.Skip(err)
		}
		require.NoError(t, err)
		defer c.Close()
		records := pipeline.From(count(1000, func(i int) record {
			if i == 500 {
				return record{Do: "die"}
			}
			return record{}
		}))
		err = within(t, func() error {
			return pipeline.Through(records, sum, c, pipeline.Deaths(100)).Into(t.Context(), new(collector[answer]))
		})
		var exit *worker.ExitError
		require.ErrorAs(t, err, &exit)
	})
}
