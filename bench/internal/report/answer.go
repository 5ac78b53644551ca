package report

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// Question asks which of several ways is the best one for a load.
type Question struct {
	// Load is what the user has.
	Load string
	// By says what the ways are compared by: "p50", "calls/s" or "CPU".
	By   string
	Ways []Way
}

// Way is a driver, and how to call with it.
type Way struct {
	// Take is what the user has to write.
	Take string
	ID   Result
}

// Answer is what was measured of a [Question].
type Answer struct {
	Load string
	// Best is the way to take, and Figure what it reaches. Next is the best way with
	// another driver.
	Best, Figure, Next string
	// Ratio is how many times better the best way is than Next.
	Ratio float64
}

// Answers answers the questions for which there are results of at least two drivers, in
// the state of the machine that is charted.
func Answers(questions []Question, sections []Section) (answers []Answer) {
	state := chartedState(sections)
	for _, q := range questions {
		type measured struct {
			*Way
			cost   float64
			figure string
		}
		var ways []measured
		for i := range q.Ways {
			w := &q.Ways[i]
			for _, s := range sections {
				for j := range s.Results {
					r := &s.Results[j]
					id := w.ID
					if id.State = state; r.State == measure.Unknown {
						id.State = r.State
					}
					if r.key() != id.key() {
						continue
					}
					if cost, figure := compared(r, q.By); cost > 0 {
						ways = append(ways, measured{w, cost, figure})
					}
				}
			}
		}
		slices.SortStableFunc(ways, func(a, b measured) int { return cmp.Compare(a.cost, b.cost) })
		if len(ways) == 0 {
			continue
		}
		best := ways[0]
		i := slices.IndexFunc(ways, func(m measured) bool { return m.ID.Subject != best.ID.Subject })
		if i < 0 {
			continue
		}
		answers = append(answers, Answer{Load: q.Load, Best: best.Take, Figure: best.figure, Next: ways[i].Take, Ratio: ways[i].cost / best.cost})
	}
	return answers
}

// compared returns what a result is compared by, smaller being better, and how to write it.
func compared(r *Result, by string) (cost float64, figure string) {
	switch by {
	case "p50":
		return float64(r.P50), Latency(r.P50)
	case "calls/s":
		if r.OpsPerS > 0 {
			return 1 / r.OpsPerS, Count(r.OpsPerS) + "/s"
		}
	case "CPU":
		if r.HostCPU != nil && r.Elapsed > 0 {
			used := 100 * (share(r.HostCPU, r.Elapsed) + share(r.WorkerCPU, r.Elapsed))
			return used, small(used) + " % of a processor"
		}
	}
	return 0, ""
}

var answerTitles = []string{"your load", "take", "it reaches", "times better than", "the best way with another driver"}

func answerCells(answers []Answer) (rows [][]string) {
	for _, a := range answers {
		rows = append(rows, []string{a.Load, a.Best, a.Figure, factor(a.Ratio) + "x", a.Next})
	}
	return rows
}

// AnswerTable writes the answers as an aligned table.
func AnswerTable(w io.Writer, answers []Answer) {
	fmt.Fprintln(w, "which driver, and which way to call:")
	align(w, answerTitles, slices.Repeat([]bool{true}, len(answerTitles)), answerCells(answers))
}

// markdownAnswers writes them into a document.
func markdownAnswers(b *bytes.Buffer, answers []Answer) {
	if len(answers) == 0 {
		return
	}
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(answerTitles, " | "), strings.Repeat(" --- |", len(answerTitles)))
	for _, row := range answerCells(answers) {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
	}
}

// width is how long the bar of a ratio is on the page, in percent: logarithmic, from 1 to
// 1000.
func (a Answer) width() int { return int(math.Round(100 * min(math.Log10(max(a.Ratio, 1.02))/3, 1))) }
