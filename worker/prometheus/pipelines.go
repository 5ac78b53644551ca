package prometheus

import (
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

// Pipeline is what a [Collector] asks of a pipeline: every *pipeline.Flow that runs is one.
type Pipeline interface{ Stats() pipeline.Stats }

// AddPipeline makes the collector measure a pipeline, under a name: the last run of the flow on which Into is called. It
// panics if the name is taken.
func (c *Collector) AddPipeline(name string, p Pipeline) {
	c.pipelines.mu.Lock()
	defer c.pipelines.mu.Unlock()
	if _, taken := c.pipelines.byName[name]; taken {
		panic(fmt.Sprintf("tandem: prometheus: there is a pipeline %q already", name))
	}
	c.pipelines.byName[name] = p
}

// RemovePipeline makes the collector forget the pipeline of this name.
func (c *Collector) RemovePipeline(name string) {
	c.pipelines.mu.Lock()
	defer c.pipelines.mu.Unlock()
	delete(c.pipelines.byName, name)
}

// pipelines are the pipelines of a collector.
type pipelines struct {
	position, size, written, records, bytes, queued, held, window, inFlight, batch, busy, sent, left *prometheus.Desc

	mu     sync.Mutex
	byName map[string]Pipeline
}

func (p *pipelines) init(o Options) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tandem_pipeline_"+name, help, append([]string{"pipeline"}, labels...), o.Labels)
	}
	p.byName = make(map[string]Pipeline)
	p.position = desc("position", "Position of the source before which all records are done with.")
	p.size = desc("size", "Records that the source has, if it says so.")
	p.written = desc("written", "Records that the sink has taken.")
	p.records = desc("stage_records_total", "Records that have gone into a stage and come out.", "stage", "way")
	p.bytes = desc("stage_bytes_total", "Encoded bytes of them.", "stage", "way")
	p.queued = desc("stage_queued_records", "Records that wait for a worker or are at one.", "stage")
	p.held = desc("stage_held_bytes", "Bytes that a stage holds of its window.", "stage")
	p.window = desc("stage_window_bytes", "The window of a stage.", "stage")
	p.inFlight = desc("stage_batches_in_flight", "Batches that are at workers.", "stage")
	p.batch = desc("stage_batch_seconds", "How long batches take.", "stage")
	p.busy = desc("stage_busy_seconds_total", "How long at least one batch was at a worker.", "stage")
	p.sent = desc("stage_again_total", "Records that were sent again, and the workers that ended or hung with records.", "stage", "reason")
	p.left = desc("stage_left_out_total", "Records that were skipped, or are dead letters.", "stage", "reason")
}

// Describe implements [prometheus.Collector].
func (p *pipelines) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{p.position, p.size, p.written, p.records, p.bytes, p.queued, p.held, p.window, p.inFlight, p.batch, p.busy, p.sent, p.left} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (p *pipelines) Collect(to chan<- prometheus.Metric) {
	p.mu.Lock()
	all := make(map[string]Pipeline, len(p.byName))
	for name, each := range p.byName {
		all[name] = each
	}
	p.mu.Unlock()
	for name, each := range all {
		s := each.Stats()
		gauge := func(d *prometheus.Desc, value float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, append([]string{name}, labels...)...)
		}
		gauge(p.position, float64(s.Position))
		gauge(p.size, float64(s.Size))
		gauge(p.written, float64(s.Written))
		names := s.StageNames()
		for i, stage := range s.Stages {
			p.collect(to, gauge, name, names[i], stage)
		}
	}
}

func (p *pipelines) collect(to chan<- prometheus.Metric, gauge func(*prometheus.Desc, float64, ...string), name, label string, s pipeline.StageStats) {
	counter := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, append([]string{name, label}, labels...)...)
	}
	counter(p.records, float64(s.In), "in")
	counter(p.records, float64(s.Out), "out")
	counter(p.bytes, float64(s.BytesIn), "in")
	counter(p.bytes, float64(s.BytesOut), "out")
	gauge(p.queued, float64(s.Queued), label)
	gauge(p.held, float64(s.Held), label)
	gauge(p.window, float64(s.Window), label)
	gauge(p.inFlight, float64(s.InFlight), label)
	to <- summaryOf(p.batch, s.Latency, name, label)
	counter(p.busy, s.Busy.Seconds())
	counter(p.sent, float64(s.Retries), "record")
	counter(p.sent, float64(s.Deaths), "death")
	counter(p.sent, float64(s.Hangs), "hang")
	counter(p.left, float64(s.Skipped), "skipped")
	counter(p.left, float64(s.DeadLetters), "dead_letter")
}

// summaryOf is a latency as a summary.
func summaryOf(d *prometheus.Desc, l pool.Latency, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstSummary(d, uint64(l.Count), l.Mean.Seconds()*float64(l.Count), map[float64]float64{
		0.5: l.P50.Seconds(), 0.99: l.P99.Seconds(), 0.999: l.P999.Seconds(), 1: l.Max.Seconds(),
	}, labels...)
}
