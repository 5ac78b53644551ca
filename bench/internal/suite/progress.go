package suite

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/tandemipc/tandem/bench/internal/report"
)

// progress is a bar on a terminal, and otherwise one plain line for each group.
type progress struct {
	w     io.Writer
	bars  *mpb.Progress
	bar   *mpb.Bar
	where atomic.Pointer[string]
}

// newProgress returns the progress of measuring for total.
func newProgress(w io.Writer, total time.Duration) *progress {
	p := &progress{w: w}
	if isTerminal(w) {
		p.where.Store(new(""))
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40))
		p.bar = p.bars.AddBar(max(total.Milliseconds(), 1),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return *p.where.Load() })),
			mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.AverageETA(decor.ET_STYLE_GO, decor.WC{W: 8})))
	}
	return p
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// at says what is measured now.
func (p *progress) at(r *report.Result) {
	if p.bar != nil {
		p.where.Store(new(fmt.Sprintf("%-36.36s ", r.Scenario+": "+r.Name()+" "+r.Conditions())))
	}
}

// add counts d as measured.
func (p *progress) add(d time.Duration) {
	if p.bar != nil {
		p.bar.IncrInt64(d.Milliseconds())
	}
}

// done says what a group measured, in a line for each number of callers and state of the machine.
func (p *progress) done(results []report.Result) {
	if p.bar != nil {
		return
	}
	for len(results) > 0 {
		n := 1
		for n < len(results) && results[n].State == results[0].State && results[n].Callers == results[0].Callers {
			n++
		}
		p.say(results[:n])
		results = results[n:]
	}
}

// say writes one line.
func (p *progress) say(results []report.Result) {
	var parts []string
	for i := range results {
		r := &results[i]
		name := r.Name()
		if r.Batch > 1 {
			name += fmt.Sprintf(" batch %d", r.Batch)
		}
		cost := float64(r.P50)
		if cost == 0 && r.OpsPerS > 0 {
			cost = 1e9 / r.OpsPerS
		}
		parts = append(parts, strings.TrimSpace(name+" "+report.Latency(int64(cost+0.5))))
	}
	fmt.Fprintln(p.w, strings.TrimSpace(results[0].Scenario+" "+results[0].Conditions())+": "+strings.Join(parts, ", "))
}

// print writes to w; where that is the terminal that the bar is on, above it.
func (p *progress) print(w io.Writer, f func(io.Writer)) {
	if p.bar == nil || !isTerminal(w) {
		f(w)
		return
	}
	var b bytes.Buffer
	f(&b)
	_, _ = p.bars.Write(b.Bytes()) // as with any print
}

// close takes the bar away.
func (p *progress) close() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
}
