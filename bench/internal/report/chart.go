package report

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wcharczuk/go-chart/v2"
	"github.com/wcharczuk/go-chart/v2/drawing"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// Chart is a chart of lines. Both axes are logarithmic.
type Chart struct {
	// ID names the file, Title and Note are for people.
	ID, Title, Note string
	// XTitle and YTitle say what the axes are, with the unit.
	XTitle, YTitle string
	// X and Y format the values at the axes.
	X, Y func(float64) string
	// XTicks are the values to show, or nil for powers of ten.
	XTicks []float64
	Lines  []Line
}

// Line is one subject in a chart.
type Line struct {
	Name   string
	Points [][2]float64
	// Colour is the same for the same name in all charts of a run.
	Colour string
	// Plain leaves out the dots, where there are many points.
	Plain bool
}

// foreign reports whether a chart has subjects that are not ours.
func (c Chart) foreign() bool {
	return slices.ContainsFunc(c.Lines, func(l Line) bool {
		return !strings.HasPrefix(l.Name, "shm") && !strings.HasPrefix(l.Name, "socket")
	}) || slices.ContainsFunc(c.Lines, func(l Line) bool { return strings.HasPrefix(l.Name, "shmipc") })
}

// charts makes the charts that the sections have figures for.
func charts(sections []Section) map[string][]Chart {
	all := make(map[string][]Chart)
	add := func(scenario string, c Chart) {
		c.Lines = slices.DeleteFunc(c.Lines, func(l Line) bool { return len(l.Points) == 0 })
		if len(c.Lines) == 0 {
			return
		}
		points := 0
		for _, l := range c.Lines {
			points = max(points, len(l.Points))
			slices.SortStableFunc(l.Points, func(a, b [2]float64) int { return cmpFloat(a[0], b[0]) })
		}
		if (scenario == "call" || scenario == "concurrent") && c.foreign() {
			c.ID += "-peers" // beside the chart of the drivers alone
		}
		if points > 1 {
			all[scenario] = append(all[scenario], c)
		}
	}
	state := chartedState(sections)
	for _, s := range sections {
		s.Results = slices.DeleteFunc(slices.Clone(s.Results), func(r Result) bool { return r.State != state && r.State != measure.Unknown })
		switch s.Name {
		case "call":
			add("call", bySize("round-trip-by-size", "Round trip by size of the payload", "p50, one caller, raw bytes; smaller is better.",
				"time of a call", s.Results, plain, latencyOf))
			add("call", bySize("call-throughput-by-size", "Throughput of calls by size of the payload", "One caller, raw bytes, both directions together; more is better.",
				"bytes per second", s.Results, plain, bytesOf))
			add("call", percentiles("call-percentiles", s.Results, 64, 0))
		case "concurrent":
			at := func(id, title, note, y string, format func(float64) string, f func(*Result) float64) {
				c := Chart{ID: id, Title: title, Note: note, XTitle: "callers", YTitle: y, X: Count, Y: format,
					Lines: lines(s.Results, func(*Result) bool { return true }, func(r *Result) float64 { return float64(r.Callers) }, f)}
				c.XTicks = ticksOf(c.Lines)
				add("concurrent", c)
			}
			at("calls-by-callers", "Calls per second by callers", "All callers together; more is better.", "calls per second", Count, func(r *Result) float64 { return r.OpsPerS })
			at("latency-by-callers", "Latency by callers", "p50; smaller is better.", "time of a call", latencyAxis, latencyOf)
			at("p99-by-callers", "The slowest hundredth by callers", "p99; smaller is better.", "time of a call", latencyAxis, func(r *Result) float64 { return float64(r.P99) })
			at("cpu-by-callers", "Processor time of a call by callers", "Host and worker together; smaller is better.", "processor time of a call", latencyAxis, func(r *Result) float64 {
				if r.HostCPU == nil || r.Ops == 0 {
					return 0
				}
				return (*r.HostCPU + *r.WorkerCPU) * 1e9 / float64(r.Ops)
			})
		case "rate":
			for _, rate := range []int{1_000, 10_000, 100_000} {
				add("rate", percentiles(fmt.Sprintf("rate-%d", rate), s.Results, 64, rate))
			}
		case "large":
			add("large", bySize("large-throughput", "Throughput of large payloads", "Both directions together; more is better.", "bytes per second",
				s.Results, func(*Result) bool { return true }, bytesOf))
		case "stream":
			add("stream", bySize("stream-throughput", "Messages one way", "Payload; more is better.", "bytes per second",
				s.Results, func(*Result) bool { return true }, bytesOf))
		case "ring":
			add("ring", bySize("ring-round-trip", "Round trip of the bare ring by size of the record", "p50; smaller is better.", "time of a round trip",
				s.Results, func(r *Result) bool { return r.Batch == 0 }, latencyOf))
			c := bySize("ring-throughput", "The bare ring one way", "By records published at once; more is better.", "bytes per second",
				s.Results, func(r *Result) bool { return r.Batch > 0 }, bytesOf)
			add("ring", c)
		}
	}
	paint(sections, all)
	return all
}

// plain leaves out what encodes structs; the peers' own encodings of bytes are in.
func plain(r *Result) bool { return r.Codec != "fixed" && r.Codec != "cbor" && r.Codec != "json" }

func latencyOf(r *Result) float64 { return float64(r.P50) }
func bytesOf(r *Result) float64   { return r.BytesPerS }

func latencyAxis(ns float64) string { return Latency(int64(math.Round(ns))) }
func bytesAxis(x float64) string    { return Count(x) + "B/s" }

// bySize charts f by the size of the payload.
func bySize(id, title, note, y string, results []Result, keep func(*Result) bool, f func(*Result) float64) Chart {
	c := Chart{ID: id, Title: title, Note: note, XTitle: "payload", YTitle: y, X: func(x float64) string { return Size(int(math.Round(x))) }, Y: bytesAxis}
	if strings.HasPrefix(y, "time") {
		c.Y = latencyAxis
	}
	c.Lines = lines(results, func(r *Result) bool { return r.Bytes != nil && keep(r) }, func(r *Result) float64 { return float64(*r.Bytes) }, f)
	c.XTicks = ticksOf(c.Lines)
	return c
}

// lines makes a line of each subject, of the values that are not zero.
func lines(results []Result, keep func(*Result) bool, x, y func(*Result) float64) []Line {
	var all []Line
	for i := range results {
		r := &results[i]
		if !keep(r) || !(x(r) > 0) || !(y(r) > 0) {
			continue
		}
		name := r.Name()
		if r.Batch > 0 {
			name += fmt.Sprintf(", batch %d", r.Batch)
		}
		at := slices.IndexFunc(all, func(l Line) bool { return l.Name == name })
		if at < 0 {
			at = len(all)
			all = append(all, Line{Name: name})
		}
		all[at].Points = append(all[at].Points, [2]float64{x(r), y(r)})
	}
	return all
}

func ticksOf(all []Line) []float64 {
	var xs []float64
	for _, l := range all {
		for _, p := range l.Points {
			xs = append(xs, p[0])
		}
	}
	slices.Sort(xs)
	return slices.Compact(xs)
}

// percentiles charts how latency grows towards the worst calls. The axis shows
// one more nine at equal steps.
func percentiles(id string, results []Result, size, rate int) Chart {
	c := Chart{
		ID: id, Title: "Latency by percentile, one caller", Note: fmt.Sprintf("Calls of %d bytes, raw; smaller is better.", size),
		XTitle: "percentile", YTitle: "time of a call", Y: latencyAxis, XTicks: []float64{1, 2, 10, 100, 1e3, 1e4, 1e5},
		X: func(x float64) string { return Percent(100 * (1 - 1/x)) },
	}
	if rate > 0 {
		c.Title = "Latency by percentile at " + Count(float64(rate)) + " calls per second"
	}
	for i := range results {
		r := &results[i]
		if r.Latencies == nil || !plain(r) || r.Bytes == nil || *r.Bytes != size || r.Rate != rate || rate > 0 && r.Callers > 0 {
			continue
		}
		l := Line{Name: r.Name(), Plain: true}
		// Beyond one in all that were counted there is nothing to tell.
		for x := 0.0; x <= math.Log10(float64(r.Latencies.TotalCount())); x += 0.05 {
			inverse := math.Pow(10, x)
			l.Points = append(l.Points, [2]float64{inverse, float64(r.Latencies.ValueAtPercentile(100 * (1 - 1/inverse)))})
		}
		c.Lines = append(c.Lines, l)
	}
	return c
}

// Percent formats a percentile: 50 %, 99.9 %.
func Percent(p float64) string {
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.4f", p), "0"), ".") + " %"
}

// Where charts are shown.
var (
	wide   = format{width: 760, height: 400, ticks: 7, font: 11}
	narrow = format{width: 360, height: 300, ticks: 4, font: 9}
	file   = format{width: 760, height: 420, ticks: 7, font: 10, legend: true}
)

type format struct {
	width, height, ticks int
	font                 float64
	// legend is for charts that stand alone; a page has its own.
	legend bool
}

// svg draws the chart.
func (c *Chart) svg(f format) (string, error) {
	xs, ys := extent(c.Lines, 0), extent(c.Lines, 1)
	ys[0], ys[1] = math.Floor(ys[0]*2)/2, math.Ceil(ys[1]*2)/2 // extent leaves no empty range
	grid := chart.Style{StrokeColor: drawing.ColorFromHex("dddddd"), StrokeWidth: 1}
	text := chart.Style{FontColor: drawing.ColorFromHex("333333"), FontSize: f.font, StrokeColor: drawing.ColorFromHex("999999"), StrokeWidth: 1}
	pad := 0.02 * (xs[1] - xs[0])
	yTicks := bounded(decades(ys, c.Y), ys[0], ys[1])
	g := chart.Chart{
		Width: f.width, Height: f.height, DPI: 96,
		Background: chart.Style{Padding: chart.Box{Top: 14, Left: 6, Right: 18, Bottom: 6}},
		XAxis: chart.XAxis{
			Name: c.XTitle, NameStyle: text, Style: text, GridMajorStyle: grid,
			Range: &chart.ContinuousRange{Min: xs[0] - pad, Max: xs[1] + pad},
			Ticks: bounded(thin(c.xTicks(xs), f.ticks), xs[0]-pad, xs[1]+pad),
		},
		// The primary axis is on the right, where nobody looks first. It is
		// hidden, but the library takes the range of both from its ticks.
		YAxis: chart.YAxis{Style: chart.Hidden(), Range: &chart.ContinuousRange{Min: ys[0], Max: ys[1]}, Ticks: yTicks},
		YAxisSecondary: chart.YAxis{
			Style: text, GridMajorStyle: grid,
			Range: &chart.ContinuousRange{Min: ys[0], Max: ys[1]},
			Ticks: yTicks,
		},
	}
	if f.legend {
		g.Background.Padding.Top = 44
	}
	for _, l := range c.Lines {
		name := l.Name
		if f.legend {
			name += "   " // the reader's font may be wider than the one that is measured
		}
		s := chart.ContinuousSeries{Name: name, YAxis: chart.YAxisSecondary}
		colour := drawing.ColorFromHex(l.Colour)
		s.Style = chart.Style{StrokeColor: colour, StrokeWidth: 2.5}
		if !l.Plain {
			s.Style.DotColor, s.Style.DotWidth = colour, 3.5
		}
		for _, p := range l.Points {
			s.XValues = append(s.XValues, math.Log10(p[0]))
			s.YValues = append(s.YValues, math.Log10(p[1]))
		}
		if len(s.XValues) == 1 { // a line needs two points
			s.XValues, s.YValues = append(s.XValues, s.XValues[0]), append(s.YValues, s.YValues[0])
		}
		g.Series = append(g.Series, s)
	}
	if f.legend {
		g.Elements = append(g.Elements, chart.LegendThin(&g, chart.Style{FontSize: f.font, FontColor: text.FontColor, StrokeColor: drawing.ColorWhite, FillColor: drawing.ColorWhite}))
	}
	var b bytes.Buffer
	if err := g.Render(chart.SVG, &b); err != nil {
		return "", fmt.Errorf("chart %s: %w", c.ID, err)
	}
	s := strings.ReplaceAll(b.String(), "font-family:'Roboto Medium',sans-serif", "font-family:system-ui,'Segoe UI',Roboto,sans-serif")
	label := fmt.Sprintf(`<svg role="img" aria-label=%q `, c.Title+": "+c.YTitle+" by "+c.XTitle)
	return strings.Replace(s, "<svg ", label, 1), nil
}

// bounded adds ticks without labels at the ends, for the library takes the
// range of an axis from its ticks.
func bounded(ticks []chart.Tick, low, high float64) []chart.Tick {
	return append(append([]chart.Tick{{Value: low}}, ticks...), chart.Tick{Value: high})
}

// extent is the range of logarithms.
func extent(all []Line, i int) [2]float64 {
	e := [2]float64{math.Inf(1), math.Inf(-1)}
	for _, l := range all {
		for _, p := range l.Points {
			v := math.Log10(p[i])
			e = [2]float64{min(e[0], v), max(e[1], v)}
		}
	}
	if e[0] == e[1] {
		e[0], e[1] = e[0]-0.5, e[1]+0.5
	}
	return e
}

func (c *Chart) xTicks(e [2]float64) []chart.Tick {
	var ticks []chart.Tick
	for _, x := range c.XTicks {
		if v := math.Log10(x); v >= e[0]-1e-9 && v <= e[1]+1e-9 {
			ticks = append(ticks, chart.Tick{Value: v, Label: c.X(x)})
		}
	}
	return ticks
}

// thin leaves out ticks until there are few enough and labels do not touch.
func thin(ticks []chart.Tick, most int) []chart.Tick {
	if len(ticks) < 2 {
		return ticks
	}
	apart := (ticks[len(ticks)-1].Value - ticks[0].Value) / float64(most)
	kept := ticks[:1:1]
	for _, t := range ticks[1:] {
		if t.Value-kept[len(kept)-1].Value >= apart {
			kept = append(kept, t)
		}
	}
	return kept
}

// decades are ticks at powers of ten, with steps between when there are few.
func decades(e [2]float64, label func(float64) string) []chart.Tick {
	steps := []float64{1}
	if e[1]-e[0] <= 2 {
		steps = []float64{1, 2, 5}
	}
	var ticks []chart.Tick
	for d := math.Floor(e[0]); d <= e[1]+1e-9; d++ {
		for _, s := range steps {
			if v := d + math.Log10(s); v >= e[0]-1e-9 && v <= e[1]+1e-9 {
				ticks = append(ticks, chart.Tick{Value: v, Label: label(math.Pow(10, d) * s)})
			}
		}
	}
	return ticks
}

// WriteSVG writes the charts as files into a directory.
func WriteSVG(dir string, sections []Section) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, list := range charts(sections) {
		for _, c := range list {
			s, err := c.svg(file)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, c.ID+".svg"), []byte(s+"\n"), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
