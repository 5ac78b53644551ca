//go:build unix

package pipeline_test

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker/pipeline"
)

// queue is a source that several runs share: each record is in one run at a time, until it is done with. It
// ends when there is none for this run.
type queue struct {
	mu     sync.Mutex
	free   []uint64
	taken  map[uint64]bool
	done   []uint64
	broken error  // what Done returns
	looked func() // is called when the pipeline has looked at a record, if it is set
}

func newQueue(positions ...uint64) *queue {
	return &queue{free: positions, taken: make(map[uint64]bool)}
}

func (q *queue) Records(ctx context.Context) iter.Seq2[pipeline.Item[uint64], error] {
	return func(yield func(pipeline.Item[uint64], error) bool) {
		for ctx.Err() == nil {
			pos, ok := q.take()
			if !ok {
				return
			}
			more := yield(pipeline.Item[uint64]{ID: pipeline.ID{Pos: pos}, Record: pos}, nil)
			if q.looked != nil {
				q.looked()
			}
			if !more {
				return
			}
		}
	}
}

func (q *queue) take() (pos uint64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.free) == 0 {
		return 0, false
	}
	pos = q.free[0]
	q.free = q.free[1:]
	q.taken[pos] = true
	return pos, true
}

func (q *queue) Done(_ context.Context, positions []uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.broken != nil {
		return q.broken
	}
	for _, pos := range positions {
		if !q.taken[pos] {
			return errors.New("done with what was not taken")
		}
		delete(q.taken, pos)
		q.done = append(q.done, pos)
	}
	return nil
}

func (q *queue) Release(positions []uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, pos := range positions {
		if !q.taken[pos] {
			panic("released what was not taken")
		}
		delete(q.taken, pos)
		q.free = append(q.free, pos)
	}
}

// scattered returns n positions with gaps, in no order.
func scattered(n int) []uint64 {
	random := rand.New(rand.NewPCG(1, 2))
	all := make([]uint64, n)
	for i := range all {
		all[i] = uint64(i)*1_000_003 + random.Uint64N(1000)
	}
	random.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// Runs that share a source fail again and again, wherever they are. Each record is done with once, after its parts were taken
// with the IDs that its position gives them, and nothing is done with that was not.
func TestNumberedSource(t *testing.T) {
	positions := scattered(3000)
	q := newQueue(slices.Clone(positions)...)
	errBad := errors.New("bad")
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(3, 4))
	lucky := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n) > 0
	}
	var dead []uint64
	got := make(map[pipeline.ID]int)
	sink := sinkFunc[uint64](func(_ context.Context, items []pipeline.Item[uint64]) error {
		if !lucky(1000) {
			return errBad
		}
		mu.Lock()
		defer mu.Unlock()
		for _, item := range items {
			got[item.ID]++
			if item.Record != item.ID.Pos {
				return errors.New("another record's ID")
			}
		}
		return nil
	})
	// A record at a position that ends with 3 has three parts, and one with 0 none; one with 7 is left out, with 8 a dead letter.
	parts := func(_ context.Context, pos uint64) ([]uint64, error) {
		switch {
		case !lucky(1000):
			return nil, errBad
		case pos%10 == 7 || pos%10 == 8:
			return nil, errors.New("poison")
		}
		return slices.Repeat([]uint64{pos}, int(min(pos%10, 3))), nil
	}
	flow := pipeline.Flatten(pipeline.Apply(pipeline.FromNumbered(q, pipeline.Reach(100)), "parts", parts,
		pipeline.OnError(func(_ context.Context, f pipeline.Failure[uint64]) pipeline.Action {
			switch {
			case f.Err == errBad:
				return pipeline.Fail
			case f.Record%10 == 7:
				return pipeline.Skip
			}
			return pipeline.Bury
		}),
		pipeline.DeadLetter(func(_ context.Context, f pipeline.Failure[uint64]) error {
			mu.Lock()
			defer mu.Unlock()
			dead = append(dead, f.ID.Pos)
			return nil
		})))
	var runs sync.WaitGroup
	failed := 0
	for range 3 {
		runs.Go(func() {
			for {
				err := flow.Into(t.Context(), sink)
				q.mu.Lock()
				over := len(q.done) == len(positions)
				q.mu.Unlock()
				if over {
					return
				}
				if err != nil {
					if !errors.Is(err, errBad) {
						t.Error(err)
						return
					}
					mu.Lock()
					failed++
					mu.Unlock()
				}
			}
		})
	}
	require.NoError(t, within(t, func() error { runs.Wait(); return nil }))
	require.Positive(t, failed)
	slices.Sort(q.done)
	slices.Sort(positions)
	require.Equal(t, positions, q.done)
	for _, pos := range positions {
		n := int(min(pos%10, 3))
		if pos%10 == 7 || pos%10 == 8 {
			n = 0
		}
		for part := range n {
			require.Positive(t, got[pipeline.ID{Pos: pos, Part: uint64(part) + 1}])
		}
		require.Zero(t, got[pipeline.ID{Pos: pos, Part: uint64(n) + 1}])
		require.Equal(t, pos%10 == 8, slices.Contains(dead, pos))
	}
	t.Logf("%d runs failed", failed)
}

// Pools of workers take records of such a source, and Stats count those that are done with.
func TestNumberedSourceThroughWorkers(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2)
		positions := scattered(5000)
		flow := pipeline.Apply(pipeline.FromNumbered(newQueue(slices.Clone(positions)...)), "record",
			func(_ context.Context, pos uint64) (record, error) { return record{N: int(pos)}, nil })
		out := pipeline.Through(flow, sum, w)
		var got collector[answer]
		require.NoError(t, within(t, func() error { return out.Into(t.Context(), &got) }))
		require.Len(t, got.items, len(positions))
		for _, item := range got.items {
			require.EqualValues(t, item.ID.Pos, item.Record.N)
		}
		stats := out.Stats()
		require.EqualValues(t, len(positions), stats.Position)
		require.EqualValues(t, len(positions), stats.Taken)
	})
}

// A source that has two records with a position at a time is an error: nobody could say which one is done with.
func TestNumberedSourceRepeatsItself(t *testing.T) {
	q := newQueue(5, 6, 5)
	hold := make(chan struct{})
	sink := sinkFunc[uint64](func(context.Context, []pipeline.Item[uint64]) error { <-hold; return nil })
	w := startPool(t, socketName, 1)
	records := pipeline.Apply(pipeline.FromNumbered(q), "record", func(_ context.Context, pos uint64) (record, error) {
		return record{N: int(pos)}, nil
	})
	q.looked = func() {
		if len(q.free) == 0 { // the pipeline has looked at all three
			close(hold)
		}
	}
	back := pipeline.Apply(pipeline.Through(records, sum, w), "back", func(_ context.Context, a answer) (uint64, error) { return uint64(a.N), nil })
	require.ErrorContains(t, within(t, func() error { return back.Into(t.Context(), sink) }), "position 5")
}

// holder is a sink that holds records back until it is flushed, which goes wrong once.
type holder struct {
	held []uint64
	kept []uint64
	err  error
	mu   sync.Mutex
}

func (h *holder) Write(_ context.Context, items []pipeline.Item[uint64]) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, item := range items {
		h.held = append(h.held, item.ID.Pos)
	}
	return nil
}

func (h *holder) Flush(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.err
	h.err = nil
	if err == nil {
		h.kept = append(h.kept, h.held...)
	}
	h.held = nil
	return err
}

// memory is a Source that says how far it was told to forget.
type memory struct{ before uint64 }

func (m *memory) Records(_ context.Context, from uint64) iter.Seq2[uint64, error] {
	return func(yield func(uint64, error) bool) {
		for pos := from; pos < 100; pos++ {
			if !yield(pos, nil) {
				return
			}
		}
	}
}

func (m *memory) Ack(_ context.Context, before uint64) error { m.before = before; return nil }

// When a sink could not be flushed nothing is acknowledged that it may have lost, though the next Flush succeeds, which
// has nothing to do any more.
func TestFlushFails(t *testing.T) {
	errFull := errors.New("disk full")
	for range 20 {
		sink := &holder{err: errFull}
		m := &memory{}
		require.ErrorIs(t, pipeline.FromSource(m).Into(t.Context(), sink), errFull)
		require.Zero(t, m.before)

		sink = &holder{err: errFull}
		q := newQueue(scattered(100)...)
		require.ErrorIs(t, pipeline.FromNumbered(q).Into(t.Context(), sink), errFull)
		require.Empty(t, q.done)
		require.Len(t, q.free, 100)
		sink = &holder{}
		require.NoError(t, pipeline.FromNumbered(q).Into(t.Context(), sink))
		require.Len(t, q.done, 100)
		require.ElementsMatch(t, q.done, sink.kept)
	}
}

// What Done fails with ends the run, and all is released.
func TestDoneFails(t *testing.T) {
	q := newQueue(scattered(100)...)
	q.broken = errors.New("no connection")
	var got collector[uint64]
	require.ErrorIs(t, pipeline.FromNumbered(q).Into(t.Context(), &got), q.broken)
	require.Len(t, q.free, 100)
	require.Empty(t, q.taken)
}

// Also a run that ends with a panic releases what it has taken.
func TestNumberedSourceIsReleasedByPanic(t *testing.T) {
	q := newQueue(1, 2, 3)
	sink := sinkFunc[uint64](func(context.Context, []pipeline.Item[uint64]) error { panic("oh") })
	require.Panics(t, func() { _ = pipeline.FromNumbered(q).Into(t.Context(), sink) })
	require.Len(t, q.free, 3)
}

func TestNumberedSourceHasNoCheckpoints(t *testing.T) {
	var got collector[uint64]
	flow := pipeline.FromNumbered(newQueue(1))
	save := pipeline.Save(func(context.Context, pipeline.Checkpoint) error { return nil }, time.Second)
	require.Panics(t, func() { _ = flow.Into(t.Context(), &got, save) })
	require.Panics(t, func() { _ = flow.Into(t.Context(), &got, pipeline.Resume(pipeline.Checkpoint{Position: 7})) })
}
