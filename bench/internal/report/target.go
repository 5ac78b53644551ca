package report

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// Target is what a figure has to reach, and what was measured. The fields with a
// JSON name are a part of the file format.
type Target struct {
	// What is measured, in words.
	What string `json:"what"`
	// Unit is "x" for ratios, "ns", "/s", "s", or "" for numbers.
	Unit string `json:"unit,omitempty"`
	// Bar is what has to be reached, Aim what would be good. Both are the most
	// that is allowed, or with AtLeast the least.
	Bar     float64 `json:"bar"`
	Aim     float64 `json:"aim"`
	AtLeast bool    `json:"at_least,omitempty"`
	// Measured is the median of the rounds, Low and High are the extremes.
	Measured float64 `json:"measured"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
	// Met is "aim", "bar" or "no".
	Met string `json:"met"`
	// State is that of the machine.
	State measure.State `json:"state,omitempty"`

	// Figure computes it from the results of a run; N is 0 if they lack something.
	Figure func(find Find) measure.Spread `json:"-"`
}

// Find returns the samples of the result that id identifies, nil if there is none. Those of
// rounds in which the machine was in another state are empty.
type Find func(id Result) []measure.Sample

// Judge fills in the targets that can be computed from those results, once for each state
// of the machine. missing are the others.
func Judge(targets []Target, results []Result) (judged []Target, missing []string) {
	for _, t := range targets {
		any := false
		for _, state := range []measure.State{measure.Unknown, measure.Near, measure.Far} {
			if t.judge(results, state) {
				judged = append(judged, t)
				any = true
			}
		}
		if !any {
			missing = append(missing, t.What)
		}
	}
	return judged, missing
}

// judge fills in t for one state. It returns false if something was not measured in that.
func (t *Target) judge(results []Result, state measure.State) bool {
	s := t.Figure(func(id Result) []measure.Sample {
		id.State = state
		key := id.key()
		for i := range results {
			if results[i].key() == key {
				return results[i].Samples
			}
		}
		return nil
	})
	if s.N == 0 {
		return false
	}
	t.State, t.Met = state, "no"
	t.Measured, t.Low, t.High = significant(s.Median), significant(s.Low), significant(s.High)
	switch {
	case t.reaches(t.Aim):
		t.Met = "aim"
	case t.reaches(t.Bar):
		t.Met = "bar"
	}
	return true
}

func (t *Target) reaches(limit float64) bool {
	if t.AtLeast {
		return t.Measured >= limit
	}
	return t.Measured <= limit
}

// value formats a figure of t.
func (t *Target) value(x float64) string {
	switch t.Unit {
	case "x":
		return factor(x) + "x"
	case "ns":
		return Latency(int64(x + 0.5))
	case "/s":
		return Count(x) + "/s"
	case "s":
		if x < 0.001 {
			return "0 s"
		}
		return factor(x) + " s"
	}
	return small(x)
}

const (
	targetsTitle = "what was measured, beside what it has to be"
	targetsAbout = `Computed from the results above, within each round and between equal states of the machine; the median of the rounds, with the least and the greatest.`
)

// targetCells returns the titles and rows of the table of targets, with two columns for
// each state of the machine.
func targetCells(targets []Target) (titles []string, rows [][]string) {
	titles = []string{"what", "bar", "aim"}
	var states []measure.State
	for _, state := range []measure.State{measure.Unknown, measure.Near, measure.Far} {
		if slices.ContainsFunc(targets, func(t Target) bool { return t.State == state }) {
			states = append(states, state)
			titles = append(titles, strings.TrimSpace("measured "+string(state)), "met")
		}
	}
	row := make(map[string]int) // by What
	for i := range targets {
		t := &targets[i]
		at, ok := row[t.What]
		if !ok {
			least := ""
			if t.AtLeast {
				least = "at least "
			}
			at = len(rows)
			row[t.What] = at
			rows = append(rows, append([]string{t.What, least + t.value(t.Bar), t.value(t.Aim)}, make([]string, 2*len(states))...))
		}
		measured := t.value(t.Measured)
		if low, high := t.value(t.Low), t.value(t.High); low != high {
			measured += fmt.Sprintf(" (%s to %s)", low, high)
		}
		column := 3 + 2*slices.Index(states, t.State)
		rows[at][column], rows[at][column+1] = measured, t.Met
	}
	return titles, rows
}

// TargetTable writes the targets as an aligned table, and what of them was not measured.
func TargetTable(w io.Writer, targets []Target, missing []string) {
	fmt.Fprintf(w, "targets: %s\n", targetsTitle)
	for _, what := range missing {
		fmt.Fprintf(w, "  not measured: %s\n", what)
	}
	titles, rows := targetCells(targets)
	align(w, titles, slices.Repeat([]bool{true}, len(titles)), rows)
}

// markdownTargets writes them into a document.
func markdownTargets(b *bytes.Buffer, targets []Target) {
	if len(targets) == 0 {
		return
	}
	titles, rows := targetCells(targets)
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(titles, " | "), strings.Repeat(" --- |", len(titles)))
	for _, row := range rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
	}
}
