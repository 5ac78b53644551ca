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

	// Figure computes it from the results of a run; N is 0 if they lack something.
	Figure func(find Find) measure.Spread `json:"-"`
}

// Find returns the samples of the result that id identifies, nil if there is none.
type Find func(id Result) []measure.Sample

// Judge fills in the targets that can be computed from those results. missing are
// the others.
func Judge(targets []Target, results []Result) (judged []Target, missing []string) {
	find := func(id Result) []measure.Sample {
		key := id.key()
		for i := range results {
			if results[i].key() == key {
				return results[i].Samples
			}
		}
		return nil
	}
	for _, t := range targets {
		s := t.Figure(find)
		if s.N == 0 {
			missing = append(missing, t.What)
			continue
		}
		t.Measured, t.Low, t.High = significant(s.Median), significant(s.Low), significant(s.High)
		t.Met = "no"
		switch {
		case t.reaches(t.Aim):
			t.Met = "aim"
		case t.reaches(t.Bar):
			t.Met = "bar"
		}
		judged = append(judged, t)
	}
	return judged, missing
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
	targetsAbout = `Computed from the results above, within each round; the median of the rounds, with the least and the greatest.`
)

var targetTitles = []string{"what", "bar", "aim", "measured", "met"}

// targetCells returns the rows of the table of targets.
func targetCells(targets []Target) (rows [][]string) {
	for i := range targets {
		t := &targets[i]
		measured := t.value(t.Measured)
		if low, high := t.value(t.Low), t.value(t.High); low != high {
			measured += fmt.Sprintf(" (%s to %s)", low, high)
		}
		least := ""
		if t.AtLeast {
			least = "at least "
		}
		rows = append(rows, []string{t.What, least + t.value(t.Bar), t.value(t.Aim), measured, t.Met})
	}
	return rows
}

// TargetTable writes the targets as an aligned table, and what of them was not measured.
func TargetTable(w io.Writer, targets []Target, missing []string) {
	fmt.Fprintf(w, "targets: %s\n", targetsTitle)
	for _, what := range missing {
		fmt.Fprintf(w, "  not measured: %s\n", what)
	}
	align(w, targetTitles, slices.Repeat([]bool{true}, len(targetTitles)), targetCells(targets))
}

// markdownTargets writes them into a document.
func markdownTargets(b *bytes.Buffer, targets []Target) {
	if len(targets) == 0 {
		return
	}
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(targetTitles, " | "), strings.Repeat(" --- |", len(targetTitles)))
	for _, row := range targetCells(targets) {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
	}
}
