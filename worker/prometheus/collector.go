// Package prometheus has a collector of metrics for clients, servers and pools. It is a module of
// its own.
//
//	metrics := prometheus.NewCollector(prometheus.Options{})
//	registry.MustRegister(metrics)
//	p, err := pool.New(ctx, 4, cmd, shm.Driver{}, pool.WithWorkers(worker.WithInterceptors(metrics.Interceptor())))
//	metrics.AddPool("resize", p)                                                      // in a host
//	worker.NewServer(worker.WithServerInterceptors(metrics.Interceptor()))            // in a worker
//
// Of the calls and notifications that a side makes, and of the streams that it opens, there are
//
//	tandem_calls_total{method, code}          counter
//	tandem_calls_in_flight{method}            gauge
//	tandem_call_duration_seconds{method}      histogram
//	tandem_call_request_bytes{method}         histogram
//	tandem_call_response_bytes{method}        histogram
//	tandem_call_items_total{method, way}      counter: items of streams, sent and received
//	tandem_call_item_bytes_total{method, way} counter
//	tandem_attempts_total{method, code}       counter
//
// and of the handlers that it runs tandem_handlers_total, tandem_handlers_in_flight and so on. A
// code is that of the error, such as not_found, and ok for none. Of each pool there are
//
//	tandem_pool_workers{pool, state}          gauge: serving, starting, given_up
//	tandem_pool_calls{pool, state}            gauge: running, queued
//	tandem_pool_ended_total{pool, result}     counter: ok, failed, retried
//	tandem_pool_unserved_total{pool, reason}  counter: rejected, abandoned
//	tandem_pool_replaced_total{pool, reason}  counter: restart, recycle
//	tandem_pool_forgotten_total{pool}         counter
//	tandem_pool_wait_seconds{pool}            summary
//	tandem_pool_run_seconds{pool}             summary
//	tandem_pool_busy_seconds_total{pool}      counter
//	tandem_pool_available_seconds_total{pool} counter
//
// as [pool.Stats] has them. Of each pipeline ([Collector.AddPipeline]) there are
//
//	tandem_pipeline_position{pipeline}, _size, _written                 gauges
//	tandem_pipeline_stage_records_total{pipeline, stage, way}           counter: in, out
//	tandem_pipeline_stage_bytes_total{pipeline, stage, way}             counter
//	tandem_pipeline_stage_queued_records{pipeline, stage}               gauge
//	tandem_pipeline_stage_held_bytes{pipeline, stage}, _window_bytes    gauges
//	tandem_pipeline_stage_batches_in_flight{pipeline, stage}            gauge
//	tandem_pipeline_stage_batch_seconds{pipeline, stage}                summary
//	tandem_pipeline_stage_busy_seconds_total{pipeline, stage}           counter
//	tandem_pipeline_stage_again_total{pipeline, stage, reason}          counter: record, death, hang
//	tandem_pipeline_stage_left_out_total{pipeline, stage, reason}       counter: skipped, dead_letter
//
// as pipeline.Stats has them.
package prometheus

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/intercept"
)

// Options are options of a [Collector]. The zero value is useful.
type Options struct {
	// Durations are the upper bounds of the buckets for durations, in seconds. By default they
	// go from half a microsecond to five minutes.
	Durations []float64
	// Sizes are those for sizes, in bytes. By default they go from 64 bytes to 64 MiB.
	Sizes []float64
	// Labels are on all metrics.
	Labels prometheus.Labels
}

// DefaultDurations are the buckets for durations, in seconds: a call through shared memory takes
// less than a microsecond, and others may take minutes.
var DefaultDurations = []float64{
	500e-9, 1e-6, 2.5e-6, 5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3,
	1, 2.5, 5, 10, 30, 60, 300,
}

// DefaultSizes are the buckets for sizes, in bytes.
var DefaultSizes = prometheus.ExponentialBuckets(64, 4, 11)

// Collector measures what its interceptor sees, and the pools that it is given. It is a
// [prometheus.Collector], to be registered once, and an [intercept.Recorder]. It is safe for
// concurrent use.
type Collector struct {
	calls, handlers family
	attempts        *prometheus.CounterVec
	pools           pools
	pipelines       pipelines
}

var (
	_ prometheus.Collector = (*Collector)(nil)
	_ intercept.Recorder   = (*Collector)(nil)
)

// family are the metrics of calls, or of handlers.
type family struct {
	total                       *prometheus.CounterVec
	inFlight                    *prometheus.GaugeVec
	duration, request, response *prometheus.HistogramVec
	items, itemBytes            *prometheus.CounterVec // of streams
}

// NewCollector returns a collector. It panics if buckets are not in order or a label is no label.
func NewCollector(o Options) *Collector {
	if o.Durations == nil {
		o.Durations = DefaultDurations
	}
	if o.Sizes == nil {
		o.Sizes = DefaultSizes
	}
	c := &Collector{
		calls: newFamily(o, "call"), handlers: newFamily(o, "handler"),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_attempts_total", Help: "Attempts of calls that have ended.", ConstLabels: o.Labels,
		}, []string{"method", "code"}),
	}
	c.pools.init(o)
	c.pipelines.init(o)
	return c
}

func newFamily(o Options, what string) family {
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tandem_" + what + "_" + name, Help: help, Buckets: buckets, ConstLabels: o.Labels,
		}, []string{"method"})
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tandem_" + what + name, Help: help, ConstLabels: o.Labels}, labels)
	}
	return family{
		total: counter("s_total", "Those that have ended.", "method", "code"),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tandem_" + what + "s_in_flight", Help: "Those that have begun and not ended.", ConstLabels: o.Labels,
		}, []string{"method"}),
		duration: histogram("duration_seconds", "How long they took.", o.Durations),
		request:  histogram("request_bytes", "The size of encoded requests.", o.Sizes),
		response: histogram("response_bytes", "The size of encoded responses.", o.Sizes),

		items:     counter("_items_total", "Items of streams that have ended.", "method", "way"),
		itemBytes: counter("_item_bytes_total", "The size of encoded items of streams that have ended.", "method", "way"),
	}
}

func (f *family) collectors() []prometheus.Collector {
	return []prometheus.Collector{f.total, f.inFlight, f.duration, f.request, f.response, f.items, f.itemBytes}
}

// Interceptor returns an interceptor for clients, pools and servers. One collector may serve any
// number of them.
func (c *Collector) Interceptor() ipc.Interceptor { return intercept.Metrics(c) }

// Begin implements [intercept.Recorder].
func (c *Collector) Begin(role intercept.Role, call *ipc.Call) {
	if f := c.family(role); f != nil {
		f.inFlight.WithLabelValues(call.Method.Name).Inc()
	}
}

// End implements [intercept.Recorder].
func (c *Collector) End(role intercept.Role, call *ipc.Call, r intercept.Result) {
	method, code := call.Method.Name, "ok"
	if r.Err != nil {
		code = r.Code.String()
	}
	f := c.family(role)
	if f == nil {
		c.attempts.WithLabelValues(method, code).Inc()
		return
	}
	f.inFlight.WithLabelValues(method).Dec()
	f.total.WithLabelValues(method, code).Inc()
	f.duration.WithLabelValues(method).Observe(r.Duration.Seconds())
	if call.Stream {
		for way, items := range map[string]ipc.Items{"sent": call.Sent, "received": call.Received} {
			f.items.WithLabelValues(method, way).Add(float64(items.Count))
			f.itemBytes.WithLabelValues(method, way).Add(float64(items.Bytes))
		}
		return
	}
	f.request.WithLabelValues(method).Observe(float64(call.RequestSize))
	if r.Err == nil && !call.OneWay {
		f.response.WithLabelValues(method).Observe(float64(call.ResponseSize))
	}
}

// family returns the metrics of a role, nil for attempts.
func (c *Collector) family(role intercept.Role) *family {
	switch role {
	case intercept.RoleCall:
		return &c.calls
	case intercept.RoleHandler:
		return &c.handlers
	}
	return nil
}

func (c *Collector) collectors() []prometheus.Collector {
	all := append(c.calls.collectors(), c.handlers.collectors()...)
	return append(all, c.attempts, &c.pools, &c.pipelines)
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, each := range c.collectors() {
		each.Describe(to)
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	for _, each := range c.collectors() {
		each.Collect(to)
	}
}
