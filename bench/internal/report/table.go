package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// A column of a table. It is left out where no row has it.
type column struct {
	title string
	left  bool
	cell  func(r *Result) string
}

var columns = []column{
	{"subject", true, (*Result).Name},
	{"conditions", true, (*Result).Conditions},
	{"line", false, func(r *Result) string {
		if r.Scenario == "limit" {
			return ""
		}
		return Latency(r.Line)
	}},
	{"p50", false, func(r *Result) string { return Latency(r.P50) }},
	{"time, relative", false, func(r *Result) string { return ratio(r.Ratio) }},
	{"to", true, func(r *Result) string {
		if r.Ratio.N == 0 {
			return ""
		}
		return r.Versus
	}},
	{"p90", false, func(r *Result) string { return Latency(r.P90) }},
	{"p99", false, func(r *Result) string { return Latency(r.P99) }},
	{"p99.9", false, func(r *Result) string { return Latency(r.P999) }},
	{"max", false, func(r *Result) string { return Latency(r.Max) }},
	{"ops/s", false, func(r *Result) string {
		if r.OpsPerS == 0 {
			return ""
		}
		return Count(r.OpsPerS)
	}},
	{"MB/s", false, func(r *Result) string {
		if r.BytesPerS == 0 {
			return ""
		}
		return digits3(r.BytesPerS / 1e6)
	}},
	{"CPU µs/op", false, func(r *Result) string {
		if r.Ops == 0 || r.HostCPU == nil || r.Rate > 0 {
			return ""
		}
		return pair(new(*r.HostCPU*1e6/float64(r.Ops)), new(*r.WorkerCPU*1e6/float64(r.Ops)))
	}},
	{"CPU %", false, func(r *Result) string {
		if r.HostCPU == nil || r.Rate == 0 && r.Ops > 0 {
			return ""
		}
		return pair(new(100*share(r.HostCPU, r.Elapsed)), new(100*share(r.WorkerCPU, r.Elapsed)))
	}},
	{"allocs/op", false, func(r *Result) string { return pair(r.HostAllocs, r.WorkerAllocs) }},
	{"switches/op", false, func(r *Result) string { return pair(r.HostSwitches, r.WorkerSwitches) }},
	{"threads", false, func(r *Result) string {
		if r.Threads == 0 {
			return ""
		}
		return fmt.Sprint(r.Threads)
	}},
	{"memory", false, func(r *Result) string { return memory(r.RSS) }},
	{"", true, func(r *Result) string { return r.Note }},
}

// cells returns the titles and rows of a table of those results.
func cells(results []Result) (titles []column, rows [][]string) {
	for _, c := range columns {
		if slices.ContainsFunc(results, func(r Result) bool { return c.cell(&r) != "" }) {
			titles = append(titles, c)
		}
	}
	for i := range results {
		var row []string
		for _, c := range titles {
			row = append(row, c.cell(&results[i]))
		}
		rows = append(rows, row)
	}
	return titles, rows
}

// Table writes an aligned table of results.
func Table(w io.Writer, results []Result) {
	columns, rows := cells(results)
	var titles []string
	var left []bool
	for _, c := range columns {
		titles, left = append(titles, c.title), append(left, c.left)
	}
	align(w, titles, left, rows)
}

// align writes a table; left says which columns begin at the left.
func align(w io.Writer, titles []string, left []bool, rows [][]string) {
	rows = slices.Insert(slices.Clone(rows), 0, titles)
	widths := make([]int, len(titles))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				b.WriteString("  ")
			}
			if left[i] {
				b.WriteString(cell + pad)
			} else {
				b.WriteString(pad + cell)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// Environment writes what machine the figures are from.
func Environment(w io.Writer, e measure.Env) {
	for _, line := range environment(e) {
		fmt.Fprintf(w, "%-11s %s\n", line[0], line[1])
	}
}

func environment(e measure.Env) [][2]string {
	cpu := e.CPU
	if cpu == "" {
		cpu = "unknown " + e.Arch
	}
	kind := "not virtual"
	if e.Virtual {
		kind = "virtual"
	}
	return [][2]string{
		{"CPU", fmt.Sprintf("%s, %d cores, %s", cpu, e.Cores, kind)},
		{"Kernel", strings.TrimSpace(e.Kernel + " " + e.OS + "/" + e.Arch)},
		{"Go", fmt.Sprintf("%s, GOMAXPROCS %d", e.Go, e.GOMAXPROCS)},
		{"Clock", fmt.Sprintf("%d ns for one reading", e.ClockNS)},
		{"Time", e.Time},
	}
}
