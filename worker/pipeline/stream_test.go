//go:build unix

package pipeline_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker/pipeline"
)

// A stage that is a stream makes several records of one. When the worker dies, or the handler fails, in the middle of a
// stream, none of its items is lost or comes twice.
func TestThroughStream(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2)
		for name, order := range map[string]pipeline.Option{
			"ordered": pipeline.Ordered(), "by key": pipeline.By(func(r record) string { return fmt.Sprint(r.N % 5) }), "as they come": pipeline.Name("items"),
		} {
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				records := count(200, func(i int) record {
					r := record{Data: make([]byte, i%7)}
					if i%35 == 20 { // which have six
						r.Do = fmt.Sprintf("once %s/%d %s", dir, i, []string{"die", "fail"}[i/35%2])
					}
					return r
				})
				got := make(map[pipeline.ID]answer)
				last := -1
				flow := pipeline.ThroughStream(pipeline.From(records), items, w, order, pipeline.Attempts[record](3, 0, pipeline.Fail))
				out := pipeline.Through(flow, again, w, pipeline.Ordered())
				require.NoError(t, within(t, func() error {
					return out.Into(t.Context(), sinkFunc[answer](func(_ context.Context, all []pipeline.Item[answer]) error {
						for _, item := range all {
							_, twice := got[item.ID]
							require.False(t, twice, item.ID)
							got[item.ID] = item.Record
							require.EqualValues(t, item.ID.Part, item.Record.Sum)
							require.EqualValues(t, item.ID.Pos, item.Record.N)
							if name == "ordered" {
								require.GreaterOrEqual(t, item.Record.N, last)
								last = item.Record.N
							}
						}
						return nil
					}))
				}))
				want := 0
				for i := range 200 {
					want += i % 7
				}
				require.Len(t, got, want)
				require.EqualValues(t, 200, out.Stats().Position)
				require.Positive(t, out.Stats().Stages[0].Deaths)
				require.GreaterOrEqual(t, out.Stats().Stages[0].Retries, uint64(6))
			})
		}
	})
}
