//go:build unix

package pipeline_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

// A record is sent at once while a worker has nothing to do, and the next ones gather meanwhile: by
// count, by bytes, and by how long they take.
func TestBatches(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 1)
		t.Run("a single record is not held back", func(t *testing.T) {
			next := make(chan struct{}, 1)
			records := func(yield func(record, error) bool) {
				for i := range 50 {
					if !yield(record{N: i}, nil) {
						return
					}
					<-next // the next record comes when this one is through
				}
			}
			sink := sinkFunc[answer](func(_ context.Context, items []pipeline.Item[answer]) error {
				require.Len(t, items, 1)
				next <- struct{}{}
				return nil
			})
			// With this it would wait for hours, if it waited at all.
			out := pipeline.Through(pipeline.From(records), sum, w, pipeline.BatchBy(pipeline.Batches{Wait: time.Hour}))
			out2 := pipeline.Through(out, again, w, pipeline.BatchBy(pipeline.Batches{Wait: time.Hour}))
			require.NoError(t, within(t, func() error { return out2.Into(t.Context(), sink) }))
		})
		// While the only worker is busy with the first record, others gather.
		gather := func(t *testing.T, n int, opts ...pipeline.Option) pipeline.StageStats {
			file := t.TempDir() + "/go"
			records := count(n, func(i int) record {
				if i == 0 {
					return record{Do: "wait " + file}
				}
				return record{Data: make([]byte, 1000)}
			})
			all := func(yield func(record, error) bool) {
				for r, err := range records {
					if !yield(r, err) {
						return
					}
				}
				touch(t, file) // now that all were taken
			}
			var got collector[answer]
			opts = append(opts, pipeline.InFlight(1))
			out := pipeline.Through(pipeline.From(all), sum, w, opts...)
			require.NoError(t, within(t, func() error { return out.Into(t.Context(), &got) }))
			requireAll(t, got.items, n)
			return out.Stats().Stages[0]
		}
		hours := pipeline.Batches{Wait: time.Hour, Work: time.Hour}
		t.Run("by count", func(t *testing.T) {
			b := hours
			b.Records = 50
			s := gather(t, 1001, pipeline.BatchBy(b))
			require.EqualValues(t, 21, s.Batches)
			require.EqualValues(t, 50, s.Records.Max)
		})
		t.Run("by bytes", func(t *testing.T) {
			b := hours
			b.Bytes = 20_500 // twenty records
			s := gather(t, 1001, pipeline.BatchBy(b))
			require.GreaterOrEqual(t, s.Batches, uint64(1000/20))
			require.InDelta(t, 20, s.Records.Max, 1)
		})
		t.Run("by work", func(t *testing.T) {
			// Each record takes at least 20 µs, so hundred take 2 ms and more.
			flow := pipeline.From(func(yield func([]byte, error) bool) {
				for range 1000 {
					if !yield([]byte("x"), nil) {
						return
					}
				}
			})
			out := pipeline.Through(flow, slow, w, pipeline.InFlight(1), pipeline.BatchBy(pipeline.Batches{Work: 2 * time.Millisecond}))
			require.NoError(t, within(t, func() error {
				return out.Into(t.Context(), pipeline.SinkFunc[[]byte](func(context.Context, []byte) error { return nil }))
			}))
			require.LessOrEqual(t, out.Stats().Stages[0].Records.P50, int64(101))
		})
		t.Run("by time", func(t *testing.T) {
			w := startPool(t, driver, 1, pool.WithConcurrency(2))
			file := t.TempDir() + "/go"
			var through atomic.Int64
			records := func(yield func(record, error) bool) {
				_ = yield(record{Do: "wait " + file}, nil)
				_ = yield(record{N: 1}, nil) // waits for others, in vain, while the first one is handled
				eventually(t, "through", func() bool { return through.Load() == 1 })
				touch(t, file)
			}
			sink := sinkFunc[answer](func(_ context.Context, items []pipeline.Item[answer]) error {
				through.Add(int64(len(items)))
				return nil
			})
			out := pipeline.Through(pipeline.From(records), sum, w, pipeline.InFlight(2))
			require.NoError(t, within(t, func() error { return out.Into(t.Context(), sink) }))
			require.EqualValues(t, 2, through.Load())
		})
	})
}
