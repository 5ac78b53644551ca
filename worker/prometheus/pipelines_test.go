//go:build unix

package prometheus_test

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

// The metrics of a pipeline are what its statistics say. Two stages of one name are told apart.
func TestPipelines(t *testing.T) {
	registry, metrics := newRegistry()
	p, err := pool.New(t.Context(), 1, worker.Self("measured"), socket.Driver{})
	require.NoError(t, err)
	defer p.Close()
	texts := func(yield func(string, error) bool) {
		for _, text := range []string{"one", "two", "not found", "three"} {
			if !yield(text, nil) {
				return
			}
		}
	}
	skip := pipeline.OnError(func(context.Context, pipeline.Failure[string]) pipeline.Action { return pipeline.Skip })
	out := pipeline.Through(pipeline.Through(pipeline.From(texts, pipeline.Size(4)), echo, p, skip), echo, p)
	metrics.AddPipeline("texts", out)
	require.Panics(t, func() { metrics.AddPipeline("texts", out) })
	require.NoError(t, out.Into(t.Context(), pipeline.SinkFunc[string](func(context.Context, string) error { return nil })))
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP tandem_pipeline_position Position of the source before which all records are done with.
# TYPE tandem_pipeline_position gauge
tandem_pipeline_position{app="test",pipeline="texts"} 4
# HELP tandem_pipeline_size Records that the source has, if it says so.
# TYPE tandem_pipeline_size gauge
tandem_pipeline_size{app="test",pipeline="texts"} 4
# HELP tandem_pipeline_written Records that the sink has taken.
# TYPE tandem_pipeline_written gauge
tandem_pipeline_written{app="test",pipeline="texts"} 3
# HELP tandem_pipeline_stage_records_total Records that have gone into a stage and come out.
# TYPE tandem_pipeline_stage_records_total counter
tandem_pipeline_stage_records_total{app="test",pipeline="texts",stage="prometheus_test.echo",way="in"} 4
tandem_pipeline_stage_records_total{app="test",pipeline="texts",stage="prometheus_test.echo",way="out"} 3
tandem_pipeline_stage_records_total{app="test",pipeline="texts",stage="prometheus_test.echo (2)",way="in"} 3
tandem_pipeline_stage_records_total{app="test",pipeline="texts",stage="prometheus_test.echo (2)",way="out"} 3
# HELP tandem_pipeline_stage_left_out_total Records that were skipped, or are dead letters.
# TYPE tandem_pipeline_stage_left_out_total counter
tandem_pipeline_stage_left_out_total{app="test",pipeline="texts",reason="dead_letter",stage="prometheus_test.echo"} 0
tandem_pipeline_stage_left_out_total{app="test",pipeline="texts",reason="dead_letter",stage="prometheus_test.echo (2)"} 0
tandem_pipeline_stage_left_out_total{app="test",pipeline="texts",reason="skipped",stage="prometheus_test.echo"} 1
tandem_pipeline_stage_left_out_total{app="test",pipeline="texts",reason="skipped",stage="prometheus_test.echo (2)"} 0
`), "tandem_pipeline_position", "tandem_pipeline_size", "tandem_pipeline_written", "tandem_pipeline_stage_records_total", "tandem_pipeline_stage_left_out_total"))
	metrics.RemovePipeline("texts")
	n, err := testutil.GatherAndCount(registry, "tandem_pipeline_position")
	require.NoError(t, err)
	require.Zero(t, n)
}
