//go:build unix

package otel_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/otel"
	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

// The metrics of a pipeline are what its statistics say, under names that the documentation has. Two stages of one name are
// told apart. When it is unregistered there are none.
func TestPipelines(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	meters := otel.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	p, err := pool.New(t.Context(), 1, worker.Self("otel"), socket.Driver{})
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
	registered, err := otel.AddPipeline("texts", out, meters)
	require.NoError(t, err)
	require.Len(t, pointsOfPipelines(t, reader), 3, "it does not run yet")
	require.NoError(t, out.Into(t.Context(), pipeline.SinkFunc[string](func(context.Context, string) error { return nil })))

	got := pointsOfPipelines(t, reader)
	s := out.Stats()
	want := map[string]float64{"position": 4, "size": 4, "written": 3}
	for i, stage := range []string{"otel_test.echo", "otel_test.echo (2)"} {
		s := s.Stages[i]
		for name, value := range map[string]float64{
			"records in": float64(s.In), "records out": float64(s.Out), "bytes in": float64(s.BytesIn), "bytes out": float64(s.BytesOut),
			"queued": 0, "held": 0, "window": 4 << 20, "in_flight": 0, "busy": s.Busy.Seconds(),
			"batches": float64(s.Batches), "batch.time": s.Latency.Mean.Seconds() * float64(s.Batches),
			"batch.duration 0.5": s.Latency.P50.Seconds(), "batch.duration 0.99": s.Latency.P99.Seconds(),
			"batch.duration 0.999": s.Latency.P999.Seconds(), "batch.duration 1": s.Latency.Max.Seconds(),
			"again record": float64(s.Retries), "again death": 0, "again hang": 0, "left_out skipped": float64(s.Skipped), "left_out dead_letter": 0,
		} {
			name, attr, _ := strings.Cut(name, " ")
			want[strings.TrimSpace("stage."+name+" "+stage+" "+attr)] = value
		}
	}
	require.Equal(t, want, got)
	require.EqualValues(t, 1, want["stage.left_out otel_test.echo skipped"])
	require.EqualValues(t, 4, want["stage.records otel_test.echo in"])
	require.EqualValues(t, 3, want["stage.records otel_test.echo (2) out"])

	require.NoError(t, registered.Unregister())
	require.Empty(t, pointsOfPipelines(t, reader))
}

// pointsOfPipelines has the metrics of the pipeline texts, by name, stage and attribute.
func pointsOfPipelines(t *testing.T, reader *sdkmetric.ManualReader) map[string]float64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &data))
	all := make(map[string]float64)
	add := func(name string, attrs attribute.Set, value float64) {
		a := text(attrs.ToSlice())
		require.Equal(t, "texts", a["tandem.pipeline"])
		delete(a, "tandem.pipeline")
		words := []string{strings.TrimPrefix(name, "tandem.pipeline.")}
		if stage, ok := a["tandem.stage"]; ok {
			words = append(words, stage)
			delete(a, "tandem.stage")
		}
		words = append(words, slices.Collect(maps.Values(a))...)
		key := strings.Join(words, " ")
		require.NotContains(t, all, key, fmt.Sprint("twice: ", key))
		all[key] = value
	}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			require.NotEmpty(t, m.Description)
			require.NotEmpty(t, m.Unit)
			switch d := m.Data.(type) {
			case metricdata.Gauge[int64]:
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[float64]:
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Sum[int64]:
				require.True(t, d.IsMonotonic)
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, float64(p.Value))
				}
			case metricdata.Sum[float64]:
				require.True(t, d.IsMonotonic)
				for _, p := range d.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			default:
				t.Errorf("metric %s has a %T", m.Name, d)
			}
		}
	}
	return all
}
