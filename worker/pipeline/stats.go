package pipeline

import (
	"fmt"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/tandemipc/tandem/worker/pool"
)

// Stats says what a run of a pipeline does and has done.
type Stats struct {
	// Elapsed is how long it has run, or ran.
	Elapsed time.Duration
	// Taken is how many records were taken from the source, and Written how many the sink has
	// taken.
	Taken, Written uint64
	// Position is the position of the source before which all records are done with. Size is how
	// many records it has, 0 if it did not say: see [Size].
	Position, Size uint64
	// Stages are those through methods, from the source to the sink.
	Stages []StageStats
}

// Remaining returns how long the rest takes if it goes on as it has from the beginning. ok is
// false if that cannot be told.
func (s Stats) Remaining() (d time.Duration, ok bool) {
	if s.Size == 0 || s.Position == 0 {
		return 0, false
	}
	left := float64(s.Size) - float64(s.Position)
	return time.Duration(max(left, 0) / float64(s.Position) * float64(s.Elapsed)), true
}

// StageNames returns the names of Stages, made different for metrics: where several have the same one, all but the first have
// a number behind it.
func (s Stats) StageNames() []string {
	names := make([]string, len(s.Stages))
	for i := range s.Stages {
		names[i] = s.Stages[i].Name
		for n := i + 1; slices.Contains(names[:i], names[i]); n++ {
			names[i] = fmt.Sprintf("%s (%d)", s.Stages[i].Name, n)
		}
	}
	return names
}

// StageStats says what a stage does and has done. Bytes are those of encoded records.
type StageStats struct {
	// Name is the stage's.
	Name string
	// In is how many records have come, and Out how many results have been made, with their bytes.
	// Both without those that were left out.
	In, Out           uint64
	BytesIn, BytesOut uint64
	// Queued is how many records wait for a worker or are at one, InFlight how many batches are at
	// workers, and Held how many bytes the stage holds of its Window.
	Queued       int
	InFlight     int
	Held, Window int64
	// Full is how often the stage could not take a record at once, as its window was full.
	Full uint64
	// Batches is how many batches have been through. Latency says how long, and Records how large they were.
	Batches uint64
	Latency pool.Latency
	Records Sizes
	// Busy is how long at least one batch was at a worker.
	Busy time.Duration
	// Retries is how many records were sent again, Deaths how many batches and records have met the
	// end of their worker, and Hangs how many were not answered in time.
	Retries, Deaths, Hangs uint64
	// Skipped and DeadLetters are records that were left out.
	Skipped, DeadLetters uint64
	// Workers is what the pool of the stage says, if it has one.
	Workers pool.Stats
}

// Sizes says how many records batches have had.
type Sizes struct {
	Mean          float64
	P50, P99, Max int64
}

// counters are counted while core.mu is held.
type counters struct {
	in, out, bytesIn, bytesOut uint64
	batches, full              uint64
	queued                     int
	busy                       time.Duration
	busySince                  time.Time
	retries, deaths, hangs     uint64
	skipped, dead              uint64
}

// finished counts a batch that is through, with the bytes of its answers as frames.
func (n *counters) finished(b *batch, answered int64) {
	n.batches++
	n.in += uint64(len(b.ids))
	n.queued -= len(b.ids)
	n.bytesIn += uint64(len(b.req) - frameHeader*len(b.ids))
	dropped := 0
	for i := range b.parts {
		if b.parts[i].dropped {
			dropped++
		}
	}
	out := len(b.ids) - dropped
	n.out += uint64(out)
	n.bytesOut += uint64(answered) - uint64(frameHeader*out)
}

// count adds one to a counter.
func (c *core) count(n *uint64) { c.counters.add(c, n, 1) }

func (*counters) add(c *core, n *uint64, more uint64) {
	c.mu.Lock()
	*n += more
	c.mu.Unlock()
}

func (c *core) stats() StageStats {
	c.mu.Lock()
	n := c.counters
	s := StageStats{
		Name: c.name, In: n.in, Out: n.out, BytesIn: n.bytesIn, BytesOut: n.bytesOut, Queued: n.queued, InFlight: c.inFlight,
		Held: c.held, Window: c.window, Full: n.full, Batches: n.batches, Busy: n.busy, Retries: n.retries, Deaths: n.deaths, Hangs: n.hangs,
		Skipped: n.skipped, DeadLetters: n.dead, Latency: latencyOf(c.latencies),
		Records: Sizes{c.sizes.Mean(), c.sizes.ValueAtPercentile(50), c.sizes.ValueAtPercentile(99), c.sizes.Max()},
	}
	for _, l := range c.lanes {
		l.open.Lock()
		if b := l.cur; b != nil {
			s.Queued += len(b.ids)
			s.Held -= b.granted - b.held
		}
		l.open.Unlock()
	}
	if c.inFlight > 0 {
		s.Busy += time.Since(n.busySince)
	}
	c.mu.Unlock()
	if c.pool != nil {
		s.Workers = c.pool.Stats()
	}
	return s
}

func latencyOf(h *hdrhistogram.Histogram) pool.Latency {
	at := func(percentile float64) time.Duration { return time.Duration(h.ValueAtPercentile(percentile)) }
	return pool.Latency{Count: h.TotalCount(), Mean: time.Duration(h.Mean()), P50: at(50), P99: at(99), P999: at(99.9), Max: time.Duration(h.Max())}
}

// Stats returns what the last run does that was begun with [Flow.Into] on just this flow, or has done. It is
// safe for concurrent use.
func (f *Flow[T]) Stats() Stats {
	r := f.latest.Load()
	if r == nil {
		return Stats{Size: f.source.size}
	}
	s := Stats{Elapsed: time.Duration(r.took.Load()), Taken: r.taken.Load(), Written: r.out.Load(), Position: r.track.low(), Size: r.size}
	if s.Elapsed == 0 {
		s.Elapsed = time.Since(r.began)
	}
	for i := len(r.stages) - 1; i >= 0; i-- {
		s.Stages = append(s.Stages, r.stages[i].stats())
	}
	return s
}
