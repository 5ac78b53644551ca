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
	// Unit is "x" for ratios, "ns", "/s", "s", "MB", or "" for numbers.
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

// Verdicts are the targets of a run, judged by what it has measured.
type Verdicts struct {
	// Judged has each target once for each state of the machine in which it was measured.
	Judged []Target
	// Asked are the targets of which all scenarios have run, measured or not.
	Asked []Target
	// All: no target was left out because its scenarios did not run.
	All bool
	// Missing says why some of those that were asked for were not measured, as far as
	// that is known.
	Missing []string

	states []measure.State // of which the table has columns
}

// Judge judges the targets by the results of the scenarios that have run.
func Judge(targets []Target, sections []Section) Verdicts {
	v := Verdicts{All: true, states: []measure.State{measure.Unknown}}
	var results []Result
	for _, s := range sections {
		results = append(results, s.Results...)
	}
	if slices.ContainsFunc(results, func(r Result) bool { return r.State != measure.Unknown }) {
		v.states = []measure.State{measure.Near, measure.Far}
	}
	lacking := make(map[string]bool) // scenarios of targets that were not measured at all
	for _, t := range targets {
		scenarios := t.scenarios()
		if slices.ContainsFunc(scenarios, func(name string) bool {
			return !slices.ContainsFunc(sections, func(s Section) bool { return s.Name == name })
		}) {
			v.All = false
			continue
		}
		v.Asked = append(v.Asked, t)
		measured := false
		for _, state := range v.states {
			if judged := t; judged.judge(results, state) {
				v.Judged = append(v.Judged, judged)
				measured = true
			}
		}
		for _, name := range scenarios {
			lacking[name] = lacking[name] || !measured
		}
	}
	for _, s := range sections {
		if lacking[s.Name] {
			for _, note := range s.Notes {
				v.Missing = append(v.Missing, s.Name+": "+strings.Join(strings.Fields(note), " ")) // one line, whatever a tool has said
			}
		}
	}
	for _, state := range v.states {
		if state != measure.Unknown && len(v.Asked) > 0 && !slices.ContainsFunc(results, func(r Result) bool { return r.State == state }) {
			v.Missing = append(v.Missing, "all that is "+string(state)+": the processors were not "+string(state)+" while this was measured")
		}
	}
	return v
}

// results are those that t is computed from.
func (t *Target) results() (ids []Result) {
	t.Figure(func(id Result) []measure.Sample {
		ids = append(ids, id)
		return nil
	})
	return ids
}

// scenarios are those of its results.
func (t *Target) scenarios() (names []string) {
	for _, id := range t.results() {
		if !slices.Contains(names, id.Scenario) {
			names = append(names, id.Scenario)
		}
	}
	return names
}

// Needed reports whether a target is computed from the result that id identifies.
func Needed(targets []Target, id Result) bool {
	return slices.ContainsFunc(targets, func(t Target) bool {
		return slices.ContainsFunc(t.results(), func(r Result) bool { return r.key() == id.key() })
	})
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
	case "MB":
		return factor(x) + " MB"
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
	targetsAbout = `Computed from the results, within each round and between equal states of the machine; the median of the rounds, with the least and the greatest.`
	noSamples    = "no samples"
)

// cells returns the titles and rows of the table of targets, with two columns for each
// state of the machine.
func (v *Verdicts) cells() (titles []string, rows [][]string) {
	titles = []string{"what", "bar", "aim"}
	for _, state := range v.states {
		titles = append(titles, strings.TrimSpace("measured "+string(state)), "met")
	}
	for i := range v.Asked {
		t := &v.Asked[i]
		least := ""
		if t.AtLeast {
			least = "at least "
		}
		row := []string{t.What, least + t.value(t.Bar), t.value(t.Aim)}
		for _, state := range v.states {
			j := slices.IndexFunc(v.Judged, func(j Target) bool { return j.What == t.What && j.State == state })
			if j < 0 {
				row = append(row, noSamples, "")
				continue
			}
			row = append(row, v.Judged[j].measured(), v.Judged[j].Met)
		}
		rows = append(rows, row)
	}
	return titles, rows
}

// measured formats what was measured.
func (t *Target) measured() string {
	s := t.value(t.Measured)
	if low, high := t.value(t.Low), t.value(t.High); low != high {
		s += fmt.Sprintf(" (%s to %s)", low, high)
	}
	return s
}

// TargetTable writes the targets as an aligned table, and why some were not measured.
func TargetTable(w io.Writer, v Verdicts) {
	fmt.Fprintf(w, "targets: %s\n", targetsTitle)
	for _, why := range v.Missing {
		fmt.Fprintf(w, "  not measured: %s\n", why)
	}
	titles, rows := v.cells()
	align(w, titles, slices.Repeat([]bool{true}, len(titles)), rows)
}

// markdownTargets writes them into a document, unless the run has left out some: a
// document has all of them.
func markdownTargets(b *bytes.Buffer, v Verdicts) {
	if !v.All || len(v.Asked) == 0 {
		return
	}
	titles, rows := v.cells()
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(titles, " | "), strings.Repeat(" --- |", len(titles)))
	for _, row := range rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
	}
	if len(v.Missing) > 0 {
		fmt.Fprintln(b, "\nNot measured:")
		fmt.Fprintln(b)
	}
	for _, why := range v.Missing {
		fmt.Fprintf(b, "- %s\n", why)
	}
}
