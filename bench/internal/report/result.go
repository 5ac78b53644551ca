// Package report holds the results of a run and writes them: as tables, as JSON,
// as one page of HTML, and as a comparison with an earlier run.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// Document is what a JSON file holds.
type Document struct {
	Env     measure.Env `json:"env"`
	Results []Result    `json:"results"`
	Targets []Target    `json:"targets,omitempty"`
}

// Result is what was measured of one subject under one set of conditions, over
// all rounds. The fields with a JSON name are the file format, which README.md
// of bench documents; those that do not apply are left out. The others live as
// long as the run.
type Result struct {
	Scenario string `json:"scenario"`
	// Subject is a driver, the name of a limit, or a peer.
	Subject string `json:"subject"`
	// Mode is how the subject is used, where there are several ways.
	Mode  string `json:"mode,omitempty"`
	Codec string `json:"codec,omitempty"`
	Wait  string `json:"wait,omitempty"`
	// Bytes of payload of one operation, one way.
	Bytes *int `json:"bytes,omitempty"`
	// Callers that call at the same time; in idle, the workers, in streams, the streams, in services, the
	// clients, and in topics, the readers.
	Callers int `json:"callers,omitempty"`
	// Rate is in calls per second.
	Rate int `json:"rate,omitempty"`
	// Batch is how many records are published at once.
	Batch int `json:"batch,omitempty"`
	// State is that of the machine, and Line the median of what a cache line took.
	State  measure.State `json:"state,omitempty"`
	Line   int64         `json:"line_ns,omitempty"`
	Rounds int           `json:"rounds"`

	P50  int64 `json:"p50_ns,omitempty"`
	P90  int64 `json:"p90_ns,omitempty"`
	P99  int64 `json:"p99_ns,omitempty"`
	P999 int64 `json:"p999_ns,omitempty"`
	Max  int64 `json:"max_ns,omitempty"`

	OpsPerS   float64  `json:"ops_per_s,omitempty"`
	BytesPerS float64  `json:"bytes_per_s,omitempty"`
	Allocs    *float64 `json:"allocs_per_op,omitempty"`
	HostCPU   *float64 `json:"host_cpu_s,omitempty"`
	WorkerCPU *float64 `json:"worker_cpu_s,omitempty"`
	Threads   int      `json:"threads,omitempty"`
	RSS       int64    `json:"rss_bytes,omitempty"`

	// Elapsed and Ops are of all rounds together.
	Elapsed time.Duration `json:"-"`
	Ops     int64         `json:"-"`
	// Allocations and context switches per operation, of each process.
	HostAllocs, WorkerAllocs     *float64 `json:"-"`
	HostSwitches, WorkerSwitches *float64 `json:"-"`
	// Versus is what Ratio is relative to, "" if to nothing; a Ratio above 1
	// means that an operation took longer.
	Versus string         `json:"-"`
	Ratio  measure.Spread `json:"-"`
	// Noise is how far rounds were apart, by metric.
	Noise     map[string]float64 `json:"-"`
	Latencies *measure.Histogram `json:"-"`
	Note      string             `json:"-"`
	// Samples are those of the rounds; of a round in another state it is empty.
	Samples []measure.Sample `json:"-"`
}

// Name names the subject with its ways of waiting and of being used.
func (r *Result) Name() string {
	name := r.Subject
	if r.Wait != "" && r.Wait != "adaptive" {
		name += " " + r.Wait
	}
	if r.Mode != "" {
		name += " " + r.Mode
	}
	return name
}

// Conditions says under what r was measured.
func (r *Result) Conditions() string {
	var parts []string
	if r.Codec != "" {
		parts = append(parts, r.Codec)
	}
	if r.Bytes != nil {
		parts = append(parts, Size(*r.Bytes))
	}
	if r.Callers > 0 || r.Scenario == "topics" {
		unit := "caller"
		switch r.Scenario {
		case "topics":
			unit = "reader"
		case "idle":
			unit = "worker"
		case "streams":
			unit = "stream"
		case "services":
			unit = "client"
		}
		if r.Callers != 1 {
			unit += "s"
		}
		parts = append(parts, fmt.Sprintf("%d %s", r.Callers, unit))
	}
	if r.Rate > 0 {
		parts = append(parts, Count(float64(r.Rate))+"/s")
	}
	if r.Batch > 0 {
		parts = append(parts, fmt.Sprintf("batch %d", r.Batch))
	}
	if r.State != measure.Unknown {
		parts = append(parts, string(r.State))
	}
	return strings.Join(parts, ", ")
}

// key is the same for results of two runs that can be compared.
func (r *Result) key() string {
	size := -1
	if r.Bytes != nil {
		size = *r.Bytes
	}
	return fmt.Sprint(r.Scenario, "|", r.Subject, "|", r.Mode, "|", r.Codec, "|", r.Wait, "|", size, "|", r.Callers, "|", r.Rate, "|", r.Batch, "|", r.State)
}

// Fold makes results of the samples of all rounds, one for each state of the machine.
// id holds what identifies them.
func Fold(id Result, samples []measure.Sample) (results []Result) {
	for _, state := range measure.States(samples) {
		id.State = state
		results = append(results, fold(id, measure.InState(samples, state)))
	}
	return results
}

func fold(r Result, aligned []measure.Sample) Result {
	samples := slices.DeleteFunc(slices.Clone(aligned), measure.Sample.Empty)
	r.Samples, r.Rounds = aligned, len(samples)
	r.Line = int64(measure.SpreadOf(measure.Each(samples, func(s measure.Sample) float64 { return float64(s.Line) })).Median)
	var total measure.Sample
	var latencies []*measure.Histogram
	var threads int
	var rss int64
	for _, s := range samples {
		total.Ops += s.Ops
		total.Bytes += s.Bytes
		total.Busy += s.Busy
		total.Elapsed += s.Elapsed
		total.Host = add(total.Host, s.Host)
		total.Worker = add(total.Worker, s.Worker)
		threads = max(threads, s.Host.Threads+s.Worker.Threads)
		rss = max(rss, s.Host.RSS+s.Worker.RSS)
		if s.Latencies != nil {
			latencies = append(latencies, s.Latencies)
		}
		if s.Note != "" {
			r.Note = s.Note
		}
	}
	if len(latencies) > 0 {
		h := measure.Merge(latencies)
		r.Latencies = h
		r.P50, r.P90 = h.ValueAtPercentile(50), h.ValueAtPercentile(90)
		r.P99, r.P999, r.Max = h.ValueAtPercentile(99), h.ValueAtPercentile(99.9), h.Max()
	}
	r.Ops, r.Elapsed = total.Ops, total.Elapsed
	if total.Busy > 0 {
		r.OpsPerS = significant(float64(total.Ops) / total.Busy.Seconds())
		r.BytesPerS = significant(float64(total.Bytes) / total.Busy.Seconds())
	}
	if total.Host.CPU > 0 || total.Worker.CPU > 0 {
		r.HostCPU, r.WorkerCPU = new(total.Host.CPU.Seconds()), new(total.Worker.CPU.Seconds())
	}
	if ops := float64(total.Ops); ops > 0 && total.Host.Mallocs+total.Worker.Mallocs > 0 {
		r.HostAllocs, r.WorkerAllocs = new(float64(total.Host.Mallocs)/ops), new(float64(total.Worker.Mallocs)/ops)
		r.Allocs = new(significant(*r.HostAllocs + *r.WorkerAllocs))
		r.HostSwitches, r.WorkerSwitches = new(float64(total.Host.Switches)/ops), new(float64(total.Worker.Switches)/ops)
	}
	r.Threads, r.RSS = threads, rss
	r.Noise = map[string]float64{
		"p50_ns":    measure.SpreadOf(measure.Each(samples, measure.Sample.P50)).Noise(),
		"p99_ns":    measure.SpreadOf(measure.Each(samples, measure.Sample.P99)).Noise(),
		"ops_per_s": measure.SpreadOf(measure.Each(samples, measure.Sample.OpsPerSecond)).Noise(),
	}
	return r
}

func add(a, b measure.Usage) measure.Usage {
	a.CPU += b.CPU
	a.Switches += b.Switches
	a.Mallocs += b.Mallocs
	return a
}

// significant rounds to five digits, since more of them mean nothing.
func significant(x float64) float64 {
	y, _ := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 5, 64), 64)
	return y
}

// WriteJSON writes d to a file.
func WriteJSON(path string, d Document) error {
	if d.Results == nil {
		d.Results = []Result{}
	}
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// ReadJSON reads what WriteJSON wrote.
func ReadJSON(path string) (Document, error) {
	var d Document
	data, err := os.ReadFile(path)
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("%s is not a report of this program: %w", path, err)
	}
	if d.Env.Go == "" || d.Results == nil {
		return d, fmt.Errorf("%s is not a report of this program: it lacks env or results", path)
	}
	return d, nil
}
