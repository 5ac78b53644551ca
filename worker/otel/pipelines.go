package otel

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tandemipc/tandem/worker/pipeline"
)

// Pipeline is what [AddPipeline] asks: every *pipeline.Flow that runs is one.
type Pipeline interface{ Stats() pipeline.Stats }

// AddPipeline measures a pipeline, under a name: the last run of the flow on which Into is called. Each time that
// metrics are read it asks the pipeline for its statistics; between that it costs nothing. It goes on until
// Unregister of what it returns is called. Names should differ: of two pipelines with the same one the metrics are mixed. Of the options only
// [WithMeterProvider] counts. It fails if an instrument cannot be made. It is safe for concurrent use.
func AddPipeline(name string, p Pipeline, opts ...Option) (metric.Registration, error) {
	c := config{meters: otel.GetMeterProvider()}
	for _, opt := range opts {
		opt(&c)
	}
	meter := c.meters.Meter(scope)
	in := pipelineInstruments{meter: meter, pipeline: attribute.String("tandem.pipeline", name)}
	in.make()
	if err := errors.Join(in.errs...); err != nil {
		return nil, err
	}
	return meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		in.observe(to, p.Stats())
		return nil
	}, in.all...)
}

// pipelineInstruments are the instruments of a pipeline.
type pipelineInstruments struct {
	meter    metric.Meter
	pipeline attribute.KeyValue
	all      []metric.Observable
	errs     []error

	position, size, written              metric.Int64ObservableGauge
	queued, held, window, inFlight       metric.Int64ObservableGauge
	records, bytes, batches, again, left metric.Int64ObservableCounter
	took                                 metric.Float64ObservableGauge
	together, busy                       metric.Float64ObservableCounter
}

func (in *pipelineInstruments) make() {
	in.position = in.gauge("position", "{record}", "Position of the source before which all records are done with.")
	in.size = in.gauge("size", "{record}", "Records that the source has, if it says so.")
	in.written = in.gauge("written", "{record}", "Records that the sink has taken.")
	in.records = in.counter("stage.records", "{record}", "Records that have gone into a stage and come out.")
	in.bytes = in.counter("stage.bytes", "By", "Encoded bytes of them.")
	in.queued = in.gauge("stage.queued", "{record}", "Records that wait for a worker or are at one.")
	in.held = in.gauge("stage.held", "By", "Bytes that a stage holds of its window.")
	in.window = in.gauge("stage.window", "By", "The window of a stage.")
	in.inFlight = in.gauge("stage.in_flight", "{batch}", "Batches that are at workers.")
	in.batches = in.counter("stage.batches", "{batch}", "Batches that have been through.")
	in.together = in.seconds("stage.batch.time", "How long batches have taken, all together.")
	in.busy = in.seconds("stage.busy", "How long at least one batch was at a worker.")
	in.again = in.counter("stage.again", "{count}", "Records that were sent again, and the workers that ended or hung with records.")
	in.left = in.counter("stage.left_out", "{record}", "Records that were skipped, or are dead letters.")
	var err error
	in.took, err = in.meter.Float64ObservableGauge("tandem.pipeline.stage.batch.duration", metric.WithUnit("s"),
		metric.WithDescription("How long batches take: quantiles."))
	in.add(in.took, err)
}

func (in *pipelineInstruments) add(o metric.Observable, err error) {
	in.all, in.errs = append(in.all, o), append(in.errs, err)
}

func (in *pipelineInstruments) gauge(name, unit, what string) metric.Int64ObservableGauge {
	g, err := in.meter.Int64ObservableGauge("tandem.pipeline."+name, metric.WithUnit(unit), metric.WithDescription(what))
	in.add(g, err)
	return g
}

func (in *pipelineInstruments) counter(name, unit, what string) metric.Int64ObservableCounter {
	c, err := in.meter.Int64ObservableCounter("tandem.pipeline."+name, metric.WithUnit(unit), metric.WithDescription(what))
	in.add(c, err)
	return c
}

func (in *pipelineInstruments) seconds(name, what string) metric.Float64ObservableCounter {
	c, err := in.meter.Float64ObservableCounter("tandem.pipeline."+name, metric.WithUnit("s"), metric.WithDescription(what))
	in.add(c, err)
	return c
}

// observe tells what the statistics of a pipeline say.
func (in *pipelineInstruments) observe(to metric.Observer, s pipeline.Stats) {
	with := func(attrs ...attribute.KeyValue) metric.ObserveOption {
		return metric.WithAttributeSet(attribute.NewSet(append(attrs, in.pipeline)...))
	}
	to.ObserveInt64(in.position, int64(s.Position), with())
	to.ObserveInt64(in.size, int64(s.Size), with())
	to.ObserveInt64(in.written, int64(s.Written), with())
	names := s.StageNames()
	for i, stage := range s.Stages {
		name := attribute.String("tandem.stage", names[i])
		way := func(way string) metric.ObserveOption { return with(name, attribute.String("way", way)) }
		reason := func(reason string) metric.ObserveOption { return with(name, attribute.String("reason", reason)) }
		to.ObserveInt64(in.records, int64(stage.In), way("in"))
		to.ObserveInt64(in.records, int64(stage.Out), way("out"))
		to.ObserveInt64(in.bytes, int64(stage.BytesIn), way("in"))
		to.ObserveInt64(in.bytes, int64(stage.BytesOut), way("out"))
		to.ObserveInt64(in.queued, int64(stage.Queued), with(name))
		to.ObserveInt64(in.held, stage.Held, with(name))
		to.ObserveInt64(in.window, stage.Window, with(name))
		to.ObserveInt64(in.inFlight, int64(stage.InFlight), with(name))
		to.ObserveInt64(in.batches, stage.Latency.Count, with(name))
		to.ObserveFloat64(in.together, stage.Latency.Mean.Seconds()*float64(stage.Latency.Count), with(name))
		l := stage.Latency
		for quantile, d := range map[float64]time.Duration{0.5: l.P50, 0.99: l.P99, 0.999: l.P999, 1: l.Max} {
			to.ObserveFloat64(in.took, d.Seconds(), with(name, attribute.Float64("quantile", quantile)))
		}
		to.ObserveFloat64(in.busy, stage.Busy.Seconds(), with(name))
		to.ObserveInt64(in.again, int64(stage.Retries), reason("record"))
		to.ObserveInt64(in.again, int64(stage.Deaths), reason("death"))
		to.ObserveInt64(in.again, int64(stage.Hangs), reason("hang"))
		to.ObserveInt64(in.left, int64(stage.Skipped), reason("skipped"))
		to.ObserveInt64(in.left, int64(stage.DeadLetters), reason("dead_letter"))
	}
}
