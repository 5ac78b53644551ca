//go:build unix

package pipeline_test

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker/pipeline"
)

// BenchmarkRecord is a record of 100 B through one stage that returns it, and BenchmarkTwoStages is one through two.
func BenchmarkRecord(b *testing.B)    { benchmarkStages(b, 1) }
func BenchmarkTwoStages(b *testing.B) { benchmarkStages(b, 2) }

func benchmarkStages(b *testing.B, stages int) {
	for _, driver := range []string{"shm", socketName} {
		b.Run(driver, func(b *testing.B) {
			var sunk int
			out := pipeline.From(numbered(b.N))
			for range stages {
				out = pipeline.Through(out, echo, startPool(b, driver, 1), pipeline.Ordered())
			}
			b.ResetTimer()
			require.NoError(b, out.Into(b.Context(), pipeline.SinkFunc[[]byte](func(_ context.Context, r []byte) error {
				sunk += len(r)
				return nil
			})))
			require.Equal(b, 100*b.N, sunk)
			s := out.Stats().Stages[0]
			b.ReportMetric(s.Records.Mean, "records/batch")
			b.ReportMetric(float64(s.Latency.P50), "p50-ns/batch")
			b.ReportMetric(float64(s.Full)*1000/float64(b.N), "full/1000")
		})
	}
}

// numbered yields records of 100 B.
func numbered(n int) func(func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		r := make([]byte, 100)
		for i := range n {
			binary.LittleEndian.PutUint64(r, uint64(i))
			if !yield(r, nil) {
				return
			}
		}
	}
}
