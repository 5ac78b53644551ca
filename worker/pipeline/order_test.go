//go:build unix

package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

// ledger is a source and a sink that check each other: nothing is acknowledged that the sink has
// not taken, nothing comes twice.
type ledger struct {
	t       *testing.T
	records []record

	mu    sync.Mutex
	acked uint64
	taken map[pipeline.ID]bool
	items []pipeline.Item[answer]
}

func (l *ledger) Records(_ context.Context, from uint64) iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		for _, r := range l.records[from:] {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (l *ledger) Ack(_ context.Context, before uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before <= l.acked {
		l.t.Errorf("acknowledged %d after %d", before, l.acked)
	}
	for ; l.acked < before; l.acked++ {
		if !l.taken[pipeline.ID{Pos: l.acked}] {
			l.t.Errorf("acknowledged %d, which the sink has not taken", l.acked)
		}
	}
	return nil
}

func (l *ledger) Write(_ context.Context, items []pipeline.Item[answer]) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, item := range items {
		if l.taken[item.ID] {
			l.t.Errorf("%v comes twice", item.ID)
		}
		l.taken[item.ID] = true
	}
	l.items = append(l.items, items...)
	return nil
}

// harass kills or stops workers at random until done is closed.
func harass(done <-chan struct{}, random *rand.Rand, stop bool, pools ...*workers) {
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(1+random.IntN(20)) * time.Millisecond):
		}
		pids := pools[random.IntN(len(pools))].pids()
		if len(pids) == 0 {
			continue
		}
		sig := syscall.SIGKILL
		if stop && random.IntN(8) == 0 {
			sig = syscall.SIGSTOP
		}
		_ = syscall.Kill(pids[random.IntN(len(pids))], sig)
	}
}

// Whatever the options are and whoever is killed, each record comes out once, with the right
// result, in the order that the stages promise; and no record is acknowledged before that.
func TestNothingIsLostOrDoubled(t *testing.T) {
	heartbeat := pool.WithWorkers(worker.WithHeartbeat(50*time.Millisecond, time.Second))
	onBoth(t, func(t *testing.T, driver string) {
		first, second := startPool(t, driver, 2, heartbeat), startPool(t, driver, 2, heartbeat)
		for seed := range uint64(6) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				l := &ledger{t: t, taken: make(map[pipeline.ID]bool)}
				for i := range 4000 {
					data := make([]byte, random.IntN(1<<(1+random.IntN(10))))
					for j := range data {
						data[j] = byte(random.Uint32())
					}
					l.records = append(l.records, record{N: i, Key: fmt.Sprint(random.IntN(20)), Data: data})
				}
				order := []pipeline.Option{nil, pipeline.Ordered(), nil}[seed%3]
				orders := func(by pipeline.Option) []pipeline.Option {
					opts := []pipeline.Option{
						pipeline.Window(int64(2000 + random.IntN(300_000))),
						pipeline.BatchBy(pipeline.Batches{Records: 1 + random.IntN(200), Bytes: 100 + random.IntN(20_000)}),
						pipeline.InFlight(1 + random.IntN(8)),
						pipeline.Deaths(1000), // none is to blame
					}
					if order != nil {
						opts = append(opts, order)
					}
					if seed%3 == 2 {
						opts = append(opts, by)
					}
					return opts
				}
				method := []*ipc.Method[record, answer]{sum, sumPlain}[seed/3%2]
				flow := pipeline.FromSource[record](l)
				sums := pipeline.Through(flow, method, first, orders(pipeline.By(func(r record) string { return r.Key }))...)
				out := pipeline.Through(sums, again, second, orders(pipeline.By(func(a answer) string { return a.Key }))...)

				done := make(chan struct{})
				var harassed sync.WaitGroup
				harassed.Go(func() { harass(done, random, true, first, second) })
				err := within(t, func() error { return out.Into(t.Context(), l) })
				close(done)
				harassed.Wait()
				require.NoError(t, err)

				require.Len(t, l.items, len(l.records))
				require.EqualValues(t, len(l.records), l.acked)
				last := make(map[string]int)
				for i, item := range l.items {
					r := l.records[item.ID.Pos]
					require.Equal(t, r.N, item.Record.N)
					require.Equal(t, crc32.ChecksumIEEE(r.Data)+1, item.Record.Sum)
					switch seed % 3 {
					case 1:
						require.Equal(t, i, r.N, "ordered")
					case 2:
						before, seen := last[r.Key]
						require.True(t, !seen || before < r.N, "order of key %s: %d after %d", r.Key, r.N, before)
						last[r.Key] = r.N
					}
				}
				s := out.Stats()
				require.EqualValues(t, len(l.records), s.Taken)
				require.EqualValues(t, len(l.records), s.Written)
				for _, stage := range s.Stages {
					require.EqualValues(t, len(l.records), stage.In, stage.Name)
					require.EqualValues(t, len(l.records), stage.Out, stage.Name)
					require.Zero(t, stage.Queued)
					require.Zero(t, stage.InFlight)
					require.Zero(t, stage.Held)
					require.Zero(t, stage.DeadLetters)
				}
			})
		}
	})
}

// A record that its worker keeps holds up nothing but what is ordered behind it, and that only
// when the window is full.
func TestSlowRecordHoldsUpOnlyWhatIsOrderedBehindIt(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2, pool.WithConcurrency(2))
		file := t.TempDir() + "/go"
		const n = 500
		records := count(n, func(i int) record {
			if i == 0 {
				return record{Do: "wait " + file}
			}
			return record{}
		})
		t.Run("ordered", func(t *testing.T) {
			var got collector[answer]
			out := pipeline.Through(pipeline.From(records), sum, w, pipeline.Ordered(), pipeline.InFlight(4))
			errs := make(chan error, 1)
			go func() { errs <- out.Into(context.Background(), &got) }()
			eventually(t, "all but the first batch are done", func() bool {
				s := out.Stats()
				return len(s.Stages) == 1 && s.Stages[0].In >= n-1
			})
			require.Zero(t, got.len())
			touch(t, file)
			require.NoError(t, within(t, func() error { return <-errs }))
			require.Len(t, got.items, n)
			for i, item := range got.items {
				require.Equal(t, i, item.Record.N)
			}
		})
		t.Run("ordered, with a small window", func(t *testing.T) {
			file := t.TempDir() + "/go"
			var taken int
			records := count(n, func(i int) record {
				taken = i
				if i == 0 {
					return record{Do: "wait " + file}
				}
				return record{Data: make([]byte, 1000)}
			})
			var got collector[answer]
			out := pipeline.Through(pipeline.From(records), sum, w, pipeline.Ordered(), pipeline.Window(50_000))
			errs := make(chan error, 1)
			go func() { errs <- out.Into(context.Background(), &got) }()
			eventually(t, "the window is full, and nothing runs but the first", func() bool {
				s := out.Stats()
				return len(s.Stages) == 1 && s.Stages[0].Full > 0 && s.Stages[0].InFlight == 1 && s.Stages[0].Held > 25_000
			})
			s := out.Stats().Stages[0]
			require.LessOrEqual(t, s.Held, int64(51_000))
			require.Zero(t, got.len())
			touch(t, file)
			require.NoError(t, within(t, func() error { return <-errs }))
			require.Equal(t, n-1, taken)
			require.Len(t, got.items, n)
		})
		t.Run("as they come", func(t *testing.T) {
			file := t.TempDir() + "/go"
			records := count(n, func(i int) record {
				if i == 0 {
					return record{Do: "wait " + file}
				}
				return record{}
			})
			var got collector[answer]
			out := pipeline.Through(pipeline.From(records), sum, w)
			errs := make(chan error, 1)
			go func() { errs <- out.Into(context.Background(), &got) }()
			eventually(t, "all but the first are through", func() bool { return got.len() == n-1 })
			require.Zero(t, out.Stats().Position)
			touch(t, file)
			require.NoError(t, within(t, func() error { return <-errs }))
			require.EqualValues(t, n, out.Stats().Position)
			require.Zero(t, got.items[n-1].Record.N)
		})
	})
}

// With By a key has its own worker as long as that lives, and records of other keys go on.
func TestKeysStayWithTheirWorkers(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 3)
		var got collector[answer]
		records := count(3000, func(i int) record { return record{Key: fmt.Sprint(i % 50)} })
		out := pipeline.Through(pipeline.From(records), sum, w, pipeline.By(func(r record) string { return r.Key }))
		require.NoError(t, within(t, func() error { return out.Into(t.Context(), &got) }))
		worker := make(map[string]int)
		used := make(map[int]bool)
		for _, item := range got.items {
			pid := item.Record.PID
			if before, ok := worker[item.Record.Key]; ok {
				require.Equal(t, before, pid, "key %s", item.Record.Key)
			}
			worker[item.Record.Key], used[pid] = pid, true
		}
		require.Len(t, worker, 50)
		require.Greater(t, len(used), 1)
	})
}

var errSource = errors.New("the source is broken")
