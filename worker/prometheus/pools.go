package prometheus

import (
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tandemipc/tandem/worker/pool"
)

// Pool is what a [Collector] asks of a pool: every *pool.Pool is one.
type Pool interface{ Stats() pool.Stats }

// AddPool makes the collector measure a pool, under a name. It panics if the name is taken.
func (c *Collector) AddPool(name string, p Pool) {
	c.pools.mu.Lock()
	defer c.pools.mu.Unlock()
	if _, taken := c.pools.byName[name]; taken {
		panic(fmt.Sprintf("tandem: prometheus: there is a pool %q already", name))
	}
	c.pools.byName[name] = p
}

// RemovePool makes the collector forget the pool of this name, such as one that was closed.
func (c *Collector) RemovePool(name string) {
	c.pools.mu.Lock()
	defer c.pools.mu.Unlock()
	delete(c.pools.byName, name)
}

// pools are the pools of a collector.
type pools struct {
	workers, calls, ended, unserved, replaced, forgotten, wait, run, busy, available *prometheus.Desc

	mu     sync.Mutex
	byName map[string]Pool
}

func (p *pools) init(o Options) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tandem_pool_"+name, help, append([]string{"pool"}, labels...), o.Labels)
	}
	p.byName = make(map[string]Pool)
	p.workers = desc("workers", "Workers that take calls, are started, or will not be started again.", "state")
	p.calls = desc("calls", "Calls that run on workers or wait for one.", "state")
	p.ended = desc("ended_total", "Attempts of calls that have ended in a worker; those that failed and were made once more are retried.", "result")
	p.unserved = desc("unserved_total", "Calls that found the queue full, or ended while they waited in it.", "reason")
	p.replaced = desc("replaced_total", "Workers that were started for one that had ended or was recycled.", "reason")
	p.forgotten = desc("forgotten_total", "Buffers and files that have come from workers and that nobody has released.")
	p.wait = desc("wait_seconds", "How long calls waited for a worker.")
	p.run = desc("run_seconds", "How long calls ran.")
	p.busy = desc("busy_seconds_total", "How long calls ran, over all workers.")
	p.available = desc("available_seconds_total", "How long workers were there for calls, times their concurrency.")
}

// Describe implements [prometheus.Collector].
func (p *pools) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{p.workers, p.calls, p.ended, p.unserved, p.replaced, p.forgotten, p.wait, p.run, p.busy, p.available} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (p *pools) Collect(to chan<- prometheus.Metric) {
	p.mu.Lock()
	all := make(map[string]Pool, len(p.byName))
	for name, each := range p.byName {
		all[name] = each
	}
	p.mu.Unlock()
	for name, each := range all {
		p.collect(to, name, each.Stats())
	}
}

func (p *pools) collect(to chan<- prometheus.Metric, name string, s pool.Stats) {
	gauge := func(d *prometheus.Desc, value int, state string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), name, state)
	}
	counter := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, append([]string{name}, labels...)...)
	}
	gauge(p.workers, s.Size, "serving")
	gauge(p.workers, s.Starting, "starting")
	gauge(p.workers, s.GivenUp, "given_up")
	gauge(p.calls, s.Running, "running")
	gauge(p.calls, s.Queued, "queued")
	counter(p.ended, float64(s.Calls-s.Failed-s.Retried), "ok")
	counter(p.ended, float64(s.Failed), "failed")
	counter(p.ended, float64(s.Retried), "retried")
	counter(p.unserved, float64(s.Rejected), "rejected")
	counter(p.unserved, float64(s.Abandoned), "abandoned")
	counter(p.replaced, float64(s.Restarts), "restart")
	counter(p.replaced, float64(s.Recycled), "recycle")
	counter(p.forgotten, float64(s.Forgotten))
	to <- summaryOf(p.wait, s.Wait, name)
	to <- summaryOf(p.run, s.Run, name)
	counter(p.busy, s.Busy.Seconds())
	counter(p.available, s.Available.Seconds())
}
