package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

func sample(p50 time.Duration, ops int64) measure.Sample {
	s := measure.Sample{
		Latencies: measure.NewHistogram(1), Ops: ops, Bytes: 128 * ops, Busy: 100 * time.Millisecond, Elapsed: 110 * time.Millisecond,
		Host:   measure.Usage{CPU: 90 * time.Millisecond, Switches: ops, Mallocs: uint64(2 * ops)},
		Worker: measure.Usage{CPU: 80 * time.Millisecond, Switches: 0, Mallocs: uint64(ops)},
	}
	measure.Record(s.Latencies, p50, 980)
	measure.Record(s.Latencies, 2*p50, 18)
	measure.Record(s.Latencies, 100*p50, 2)
	return s
}

func document() Document {
	d := Document{Env: measure.Env{Time: "2026-01-02T03:04:05Z", OS: "linux", Arch: "amd64", CPU: "Some CPU", Cores: 2, Virtual: true,
		Kernel: "Linux 6.1", Go: "go1.26", GOMAXPROCS: 2, ClockNS: 25}}
	add := func(id Result, samples ...measure.Sample) { d.Results = append(d.Results, Fold(id, samples)...) }
	add(Result{Scenario: "limit", Subject: "cacheline-1"}, sample(100, 1e6))
	add(Result{Scenario: "ring", Subject: "ring", Wait: "spin", Bytes: new(8), Batch: 32}, measure.Sample{Ops: 1000, Bytes: 8000, Busy: time.Millisecond})
	add(Result{Scenario: "call", Subject: "shm", Wait: "adaptive", Codec: "raw", Bytes: new(64), Callers: 1}, sample(400, 1e5), sample(420, 9e4), sample(380, 1.1e5))
	add(Result{Scenario: "call", Subject: "socket", Codec: "raw", Bytes: new(0), Callers: 1}, sample(20*time.Microsecond, 5e3))
	add(Result{Scenario: "rate", Subject: "socket", Mode: "in place", Codec: "raw", Bytes: new(64), Rate: 1000}, sample(50*time.Microsecond, 100))
	add(Result{Scenario: "idle", Subject: "shm", Wait: "adaptive", Callers: 100}, measure.Sample{Elapsed: time.Second,
		Host: measure.Usage{CPU: time.Millisecond, Threads: 12, RSS: 30 << 20}})
	d.Targets = []Target{{What: "a call", Unit: "x", Bar: 2, Aim: 1.1, AtLeast: true, Measured: 1.25, Low: 1, High: 1.5, Met: "no"}}
	return d
}

// The file format. Whoever changes it has to change README.md of bench too.
func TestSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	d := document()
	require.NoError(t, WriteJSON(path, d))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	golden(t, "schema.json", data)

	back, err := ReadJSON(path)
	require.NoError(t, err)
	require.Equal(t, d.Env, back.Env)
	again := filepath.Join(t.TempDir(), "again.json")
	require.NoError(t, WriteJSON(again, back))
	second, err := os.ReadFile(again)
	require.NoError(t, err)
	require.Equal(t, string(data), string(second), "what is read is what was written")
}

// All names of the format are in use, and only they.
func TestSchemaNames(t *testing.T) {
	want := strings.Fields("scenario subject mode codec wait bytes callers rate batch rounds p50_ns p90_ns p99_ns p999_ns max_ns " +
		"ops_per_s bytes_per_s allocs_per_op host_cpu_s worker_cpu_s threads rss_bytes")
	data, err := json.Marshal(document())
	require.NoError(t, err)
	var d map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(data, &d))
	require.Len(t, d, 3)
	require.Contains(t, d, "env")
	var targets []map[string]any
	require.NoError(t, json.Unmarshal(d["targets"], &targets))
	require.Len(t, targets[0], 9)
	for name := range targets[0] {
		want = append(want, name)
	}
	var results []map[string]any
	require.NoError(t, json.Unmarshal(d["results"], &results))
	seen := make(map[string]bool)
	for _, r := range results {
		for name := range r {
			require.Contains(t, want, name)
			seen[name] = true
		}
		require.NotContains(t, r, "", "fields that do not apply are left out")
	}
	require.Len(t, seen, len(want)-len(targets[0]))
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	for _, name := range want {
		require.Contains(t, string(readme), "`"+name+"`", "README.md documents the format")
	}
}

func TestFold(t *testing.T) {
	r := Fold(Result{Subject: "x"}, []measure.Sample{sample(400, 1e5), sample(420, 9e4), sample(380, 1.1e5)})[0]
	require.Equal(t, 3, r.Rounds)
	require.EqualValues(t, 400, r.P50)
	require.EqualValues(t, 1e6, r.OpsPerS)
	require.EqualValues(t, 1.28e8, r.BytesPerS)
	require.InDelta(t, 3, *r.Allocs, 1e-9)
	require.InDelta(t, 1, *r.HostSwitches, 1e-9)
	require.InDelta(t, 0.27, *r.HostCPU, 1e-9)
	require.InDelta(t, 0.05, r.Noise["p50_ns"], 1e-3)
	require.InDelta(t, 0.1, r.Noise["ops_per_s"], 1e-3)
	require.EqualValues(t, 3000, r.Latencies.TotalCount())
}

// ran is a run of one scenario.
func ran(name string, results []Result, notes ...string) []Section {
	return []Section{{Name: name, Results: results, Notes: notes}}
}

func TestJudge(t *testing.T) {
	call := Result{Scenario: "call", Subject: "shm", Bytes: new(64)}
	results := Fold(call, []measure.Sample{sample(100, 1e5), sample(300, 1e5), sample(200, 1e5)})
	p50 := func(id Result) func(Find) measure.Spread { return Of(id, measure.Sample.P50) }
	other, elsewhere := call, call
	other.Mode, elsewhere.Scenario = "in place", "rate"
	v := Judge([]Target{
		{What: "quick", Bar: 300, Aim: 200, Figure: p50(call)},
		{What: "fair", Bar: 200, Aim: 199, Figure: p50(call)},
		{What: "slow", Bar: 199, Aim: 100, Figure: p50(call)},
		{What: "much", Bar: 100, Aim: 200, AtLeast: true, Unit: "ns", Figure: p50(call)},
		{What: "little", Bar: 201, Aim: 300, AtLeast: true, Unit: "/s", Figure: p50(call)},
		{What: "another", Bar: 1, Aim: 1, Figure: p50(other)},
		{What: "not asked for", Bar: 1, Aim: 1, Figure: Over(measure.Sample.Cost, call, elsewhere)},
	}, ran("call", results, "in place, for some reason"))
	require.False(t, v.All)
	require.Len(t, v.Asked, 6)
	require.True(t, Needed(v.Asked, other))
	require.False(t, Needed(v.Asked, elsewhere))
	require.Equal(t, []string{"call: in place, for some reason"}, v.Missing)
	var met []string
	for _, target := range v.Judged {
		require.EqualValues(t, 200, target.Measured)
		require.EqualValues(t, 100, target.Low)
		require.EqualValues(t, 300, target.High)
		met = append(met, target.Met)
	}
	require.Equal(t, []string{"aim", "bar", "no", "aim", "no"}, met)
	var b bytes.Buffer
	TargetTable(&b, v)
	golden(t, "targets.txt", b.Bytes())
}

// What a figure is of, round by round.
func TestFigures(t *testing.T) {
	id := func(subject string) Result { return Result{Scenario: "call", Subject: subject} }
	samples := map[string][]measure.Sample{
		"a": {sample(600, 1e5), {}, sample(900, 1e5), sample(1200, 1e5)},
		"b": {sample(200, 1e5), sample(100, 1e5), {}, sample(300, 1e5)},
		"c": {sample(100, 1e5), sample(100, 1e5), sample(100, 1e5), sample(200, 1e5)},
	}
	find := func(id Result) []measure.Sample { return samples[id.Subject] }
	cost := measure.Sample.Cost
	require.Equal(t, measure.Spread{Median: 900, Low: 600, High: 1200, N: 3}, Of(id("a"), cost)(find))
	require.Equal(t, measure.Spread{Median: 3.5, Low: 3, High: 4, N: 2}, Over(cost, id("a"), id("b"))(find))
	require.Equal(t, measure.Spread{Median: 2.2, Low: 2, High: 2.4, N: 2}, Over(cost, id("a"), id("b"), id("c"))(find), "over a sum, in rounds that have all of it")
	require.Zero(t, Over(cost, id("a"), id("none"))(find).N)
	require.Zero(t, Over(cost, id("a"), id("b"), id("none"))(find).N, "a part of the sum is missing")
	require.Zero(t, Of(id("none"), cost)(find).N)
}

// inState marks a sample.
func inState(s measure.Sample, state measure.State, line time.Duration) measure.Sample {
	s.State, s.Line = state, line
	return s
}

// Samples of two states of the machine make two results, and those in which it changed none.
func TestFoldByState(t *testing.T) {
	near, far := func(p50 time.Duration) measure.Sample { return inState(sample(p50, 1e5), measure.Near, 80) },
		func(p50 time.Duration) measure.Sample { return inState(sample(p50, 1e5), measure.Far, 400) }
	mixed := inState(sample(1000, 1e5), measure.Mixed, 200)
	call, ring := Result{Scenario: "call", Subject: "shm"}, Result{Scenario: "call", Subject: "ring"}
	calls := Fold(call, []measure.Sample{near(300), mixed, far(1500), near(500), near(400)})
	require.Len(t, calls, 2)
	require.Equal(t, measure.Near, calls[0].State)
	require.EqualValues(t, 80, calls[0].Line)
	require.EqualValues(t, 400, calls[0].P50)
	require.Equal(t, 3, calls[0].Rounds)
	require.Len(t, calls[0].Samples, 5)
	require.Equal(t, measure.Far, calls[1].State)
	require.EqualValues(t, 1500, calls[1].P50)
	require.Equal(t, 1, calls[1].Rounds)
	require.Equal(t, measure.Mixed, Fold(call, []measure.Sample{mixed})[0].State)

	rings := Fold(ring, []measure.Sample{near(100), near(200), near(300), far(1000), near(200)})
	targets := []Target{
		{What: "call over ring", Unit: "x", Bar: 2.5, Aim: 2, Figure: Over(measure.Sample.P50, call, ring)},
		{What: "ring", Unit: "ns", Bar: 100, Aim: 50, Figure: Of(ring, measure.Sample.P50)},
	}
	// Of the last one the far samples are missing, since none of its rounds was far.
	near1 := Result{Scenario: "call", Subject: "socket"}
	targets = append(targets, Target{What: "near alone", Unit: "ns", Bar: 100, Aim: 50, Figure: Of(near1, measure.Sample.P50)})
	all := slices.Concat(calls, rings, Fold(near1, []measure.Sample{near(100), mixed}))
	v := Judge(targets, ran("call", all))
	require.Len(t, v.Judged, 5)
	require.Empty(t, v.Missing)
	require.True(t, v.All)
	var b bytes.Buffer
	TargetTable(&b, v)
	golden(t, "states.txt", b.Bytes())

	// A state that was never met, and a run that met neither.
	v = Judge(targets, ran("call", Fold(near1, []measure.Sample{near(100)}), "a ring, for some reason"))
	require.Equal(t, []string{"call: a ring, for some reason", "all that is far: the processors were not far while this was measured"}, v.Missing)
	b.Reset()
	markdownTargets(&b, v)
	golden(t, "missing.md", b.Bytes())
	// What was measured, but is in no target, was in its state all the same.
	aside := Result{Scenario: "call", Subject: "aside"}
	v = Judge(targets, ran("call", Fold(aside, []measure.Sample{near(100), far(100)}), "a ring: exit status 1:\nno network\n"))
	require.Empty(t, v.Judged)
	require.Equal(t, []string{"call: a ring: exit status 1: no network"}, v.Missing)

	v = Judge(targets, ran("call", Fold(near1, []measure.Sample{mixed})))
	require.Empty(t, v.Judged)
	require.Len(t, v.Missing, 2)

	// A run in the other state says nothing about the baseline.
	env := document().Env
	c := Compare(Document{Env: env, Results: calls[:1]}, Document{Env: env, Results: calls[1:]})
	require.Empty(t, c.Worse)
	require.Equal(t, 1, c.Missing)
}

func TestTable(t *testing.T) {
	d := document()
	d.Results[3].Ratio, d.Results[3].Versus = measure.Spread{Median: 50.123, Low: 0.0123, High: 1234, N: 3}, "shm"
	var b bytes.Buffer
	Environment(&b, d.Env)
	for _, r := range d.Results {
		Table(&b, []Result{r})
	}
	Table(&b, d.Results[2:4])
	golden(t, "table.txt", b.Bytes())
}

func changed(d Document, i int, change func(r *Result)) Document {
	d.Results = slices.Clone(d.Results)
	change(&d.Results[i])
	return d
}

func TestCompare(t *testing.T) {
	before, now := document(), document()
	same := Compare(before, now)
	require.Empty(t, same.Worse)
	require.Empty(t, same.Better)
	require.Positive(t, same.Same)
	require.Zero(t, same.Missing)
	require.Empty(t, same.Warnings)

	// 9 % is less than two runs of the same program differ by.
	little := Compare(before, changed(now, 3, func(r *Result) { r.P50 += r.P50 * 9 / 100 }))
	require.Empty(t, little.Worse)
	// A call whose rounds were calm, 30 % slower.
	slower := Compare(before, changed(now, 3, func(r *Result) { r.P50 += r.P50 * 3 / 10 }))
	require.Len(t, slower.Worse, 1)
	require.Equal(t, "p50_ns", slower.Worse[0].Metric)
	require.InDelta(t, 1.3, slower.Worse[0].Factor, 0.01)
	// The same, where rounds were further apart than that.
	noisy := Compare(before, changed(now, 3, func(r *Result) {
		r.P50 += r.P50 * 3 / 10
		r.Noise = map[string]float64{"p50_ns": 0.2}
	}))
	require.Empty(t, noisy.Worse)
	// Less throughput is worse, more is better.
	require.Equal(t, "ops_per_s", Compare(before, changed(now, 1, func(r *Result) { r.OpsPerS /= 2 })).Worse[0].Metric)
	require.Equal(t, "ops_per_s", Compare(before, changed(now, 1, func(r *Result) { r.OpsPerS *= 2 })).Better[0].Metric)
	// One more allocation is worse; so is the first one.
	require.Equal(t, "allocs_per_op", Compare(before, changed(now, 3, func(r *Result) { r.Allocs = new(*r.Allocs + 1) })).Worse[0].Metric)
	none := changed(before, 3, func(r *Result) { r.Allocs = new(0.0) })
	require.Equal(t, "allocs_per_op", Compare(none, changed(now, 3, func(r *Result) { r.Allocs = new(1.0) })).Worse[0].Metric)
	require.Empty(t, Compare(none, changed(now, 3, func(r *Result) { r.Allocs = new(0.2) })).Worse)
	// A thread for each idle worker.
	require.Equal(t, "threads", Compare(before, changed(now, 5, func(r *Result) { r.Threads = 112 })).Worse[0].Metric)
	// The rate that was asked for is no result.
	require.Empty(t, Compare(before, changed(now, 4, func(r *Result) { r.OpsPerS /= 2 })).Worse)

	// A machine whose cache lines take twice as long says nothing about a call
	// that does, too.
	drifted := changed(changed(now, 0, func(r *Result) { r.P50 *= 2 }), 3, func(r *Result) { r.P50 *= 2 })
	c := Compare(before, drifted)
	require.Empty(t, c.Worse)
	require.InDelta(t, 2, c.Drift, 0.01)

	other := now
	other.Env.Go, other.Env.Cores = "go1.27", 64
	other.Results = other.Results[:2]
	c = Compare(before, other)
	require.Len(t, c.Warnings, 2)
	require.Equal(t, 4, c.Missing)
	var b bytes.Buffer
	c.Write(&b)
	slower.Write(&b)
	golden(t, "comparison.txt", b.Bytes())
}

// verdicts are those of one state.
func verdicts(judged []Target) Verdicts {
	return Verdicts{Judged: judged, Asked: judged, All: true, states: []measure.State{measure.Unknown}}
}

func TestPageIsSelfContained(t *testing.T) {
	d := document()
	path := filepath.Join(t.TempDir(), "page.html")
	again := d.Results[2]
	again.Bytes, again.P50, again.Subject = new(4096), 900, "<script>alert(1)</script>"
	third := d.Results[2]
	third.Bytes, third.P50 = new(4096), 900
	require.NoError(t, WriteHTML(path, Page{Title: "A title", Command: "bench -quick", Env: d.Env, Sections: []Section{
		{Name: "call", Title: "calls", About: "About calls.", Results: []Result{d.Results[2], d.Results[3], again, third}},
		{Name: "idle", Title: "idle", Results: d.Results[5:], Notes: []string{"a thousand"}},
	}, Verdicts: verdicts(d.Targets), Comparison: &Comparison{}}))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	html := string(data)
	for _, want := range []string{"A title", "bench -quick", "Some CPU", "About calls.", "Not measured: a thousand", "<svg role=", "400 ns", "4 KiB", "Compared with the baseline", "at least 2x", "1.25x (1x to 1.5x)"} {
		require.Contains(t, html, want)
	}
	require.NotContains(t, html, "<script", "there is none, and names are escaped")
	links := regexp.MustCompile(`(?:src|href)="([^"#][^"]*)"|url\(`).FindAllString(html, -1)
	require.Empty(t, links, "the page needs no other file")
	for _, link := range regexp.MustCompile(`href="#([^"]*)"`).FindAllStringSubmatch(html, -1) {
		require.Contains(t, html, `id="`+link[1]+`"`)
	}
	for _, url := range regexp.MustCompile(`https?://[^" ]+`).FindAllString(html, -1) {
		require.Contains(t, url, "www.w3.org", "only names of formats")
	}
}

// What was asked comes first: the answers, the targets, and then how they came about.
func TestPageBeginsWithAnswers(t *testing.T) {
	d := document()
	path := filepath.Join(t.TempDir(), "page.html")
	require.NoError(t, WriteHTML(path, Page{Title: "A title", Env: d.Env, Answers: []Answer{{Load: "a load of 64 KiB", Best: "shm", Next: "socket", Ratio: 2}},
		Verdicts: verdicts(d.Targets), Comparison: &Comparison{}, Sections: []Section{{Name: "call", Title: "calls", Results: d.Results[2:4]}}}))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	html := string(data)
	var ids []string
	for _, m := range regexp.MustCompile(`<(?:section|h2) id="([^"]*)"`).FindAllStringSubmatch(html, -1) {
		ids = append(ids, m[1])
	}
	require.Equal(t, []string{"answers", "targets", "run", "comparison", "call"}, ids)
	for _, id := range ids {
		require.Contains(t, html, `<a href="#`+id+`">`)
	}
	require.Contains(t, html, "a load of 64\u00a0KiB")
}

func TestCharts(t *testing.T) {
	var results []Result
	for i, size := range []int{0, 64, 4096, 1 << 20} {
		for _, name := range []string{"shm", "socket", "grpc", "drpc", "net/rpc", "ttrpc", "a", "b", "c"} {
			results = append(results, Fold(Result{Scenario: "call", Subject: name, Codec: "raw", Bytes: new(size), Callers: 1},
				[]measure.Sample{sample(time.Duration(100*(i+1)*len(name)), 1000)})...)
		}
	}
	dir := t.TempDir()
	require.NoError(t, WriteSVG(dir, []Section{{Name: "call", Results: results}}))
	files, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	require.NoError(t, err)
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f))
		data, err := os.ReadFile(f)
		require.NoError(t, err)
		require.Contains(t, string(data), "socket", "%s has a legend", f)
		require.NotContains(t, string(data), "NaN")
	}
	// Names keep their colours from chart to chart, and share none.
	all := charts([]Section{{Name: "call", Results: results}})
	of := make(map[string]string)
	for _, c := range all["call"] {
		for _, l := range c.Lines {
			require.NotEmpty(t, l.Colour)
			if of[l.Name] == "" {
				for other, colour := range of {
					require.NotEqual(t, colour, l.Colour, "%s and %s", other, l.Name)
				}
				of[l.Name] = l.Colour
			}
			require.Equal(t, of[l.Name], l.Colour)
		}
	}
	require.Len(t, of, 9)
	require.Equal(t, []string{"call-percentiles-peers.svg", "call-throughput-by-size-peers.svg", "round-trip-by-size-peers.svg"}, names)

	// One point, or equal ones, make no empty axis.
	one := Chart{ID: "one", X: Count, Y: Count, XTicks: []float64{1}, Lines: []Line{{Name: "x", Colour: "000000", Points: [][2]float64{{1, 10}}}}}
	for _, f := range []format{wide, narrow, file} {
		s, err := one.svg(f)
		require.NoError(t, err)
		require.Contains(t, s, "<svg")
	}
}

func TestAnswers(t *testing.T) {
	d := document()
	way := func(take string, i int) Way { return Way{Take: take, ID: d.Results[i]} }
	sections := []Section{{Name: "all", Results: d.Results}}
	questions := []Question{
		{Load: "one call", By: "p50", Ways: []Way{way("socket", 3), way("shm", 2)}},
		{Load: "many", By: "calls/s", Ways: []Way{way("shm", 2), way("socket", 3)}},
		{Load: "alone", By: "p50", Ways: []Way{way("shm", 2)}}, // nothing to compare with
	}
	answers := Answers(questions, sections)
	require.Len(t, answers, 2)
	require.Equal(t, "shm", answers[0].Best)
	require.Equal(t, "socket", answers[0].Next)
	require.InEpsilon(t, 50, answers[0].Ratio, 0.01)
	require.Equal(t, "shm", answers[1].Best)
	require.InEpsilon(t, 20, answers[1].Ratio, 0.01)
	var b bytes.Buffer
	AnswerTable(&b, answers)
	markdownAnswers(&b, answers)
	golden(t, "answers.txt", b.Bytes())
	require.Equal(t, 100, Answer{Ratio: 1e4}.width())
	require.Equal(t, 33, Answer{Ratio: 10}.width())
}

func TestFormats(t *testing.T) {
	for ns, want := range map[int64]string{0: "", 1: "1 ns", 999: "999 ns", 1000: "1 µs", 1234: "1.23 µs", 12345: "12.3 µs", 123456: "123 µs", 999_600: "1 ms", 5_000_000_000: "5 s"} {
		require.Equal(t, want, Latency(ns))
	}
	for n, want := range map[int]string{0: "0 B", 64: "64 B", 1000: "1000 B", 1024: "1 KiB", 65536: "64 KiB", 1 << 20: "1 MiB", 1<<20 + 1: "1048577 B"} {
		require.Equal(t, want, Size(n))
	}
	for x, want := range map[float64]string{0: "0", 1.5: "1.5", 999: "999", 1000: "1 k", 123_456: "123 k", 9.99e6: "9.99 M", 2e9: "2 G"} {
		require.Equal(t, want, Count(x))
	}
	for x, want := range map[float64]string{1: "1", 0.5: "0.5", 0.0123: "0.012", 12.34: "12.3", 1234.5: "1234"} {
		require.Equal(t, want, factor(x))
	}
	for s, want := range map[string]string{"8 B, 4 KiB and 1.2 µs": "8_B, 4_KiB and 1.2_µs", "46.9 M/s (3 k/s)": "46.9_M/s (3_k/s)", "64 callers": "64 callers", "8 Bytes": "8 Bytes", "10 s": "10_s"} {
		require.Equal(t, want, strings.ReplaceAll(unbroken(s), "\u00a0", "_"))
	}
	require.Equal(t, "50 %", Percent(50))
	require.Equal(t, "99.99 %", Percent(99.99))
}
