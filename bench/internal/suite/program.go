package suite

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
)

// Program is a command that runs scenarios.
type Program struct {
	// Name is how the user calls it, such as "go run ./bench".
	Name  string
	Title string
	// Scenarios in the order in which they run.
	Scenarios []Scenario
	// Questions are answered by what a run has measured, first of all.
	Questions []report.Question
	// Targets are judged by what a run has measured.
	Targets []report.Target
	// Line times a cache line, so that states of the machine can be told apart. Tests
	// replace [measure.LineTime], which nil stands for.
	Line func() time.Duration
}

// The exit statuses.
const (
	statusOK          = 0
	statusFailed      = 1 // a benchmark failed, or something got worse
	statusUsage       = 2
	statusInterrupted = 130
)

func (p *Program) scenario(name string) *Scenario {
	for i := range p.Scenarios {
		if p.Scenarios[i].Name == name {
			return &p.Scenarios[i]
		}
	}
	return nil
}

func (p *Program) names() []string {
	var names []string
	for _, s := range p.Scenarios {
		names = append(names, s.Name)
	}
	return names
}

func (p *Program) subjects() []string {
	var all []string
	for _, s := range p.Scenarios {
		for _, name := range s.Subjects {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	return all
}

// Main runs the program with the arguments of a command line and returns the
// exit status. Tables go to stdout, progress and errors to stderr.
func (p *Program) Main(args []string, stdout, stderr io.Writer) int {
	o, err := p.parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return statusOK
	}
	if err != nil {
		return statusUsage
	}
	var baseline report.Document
	if o.Baseline != "" {
		// Now, rather than after ten minutes of measuring.
		if baseline, err = report.ReadJSON(o.Baseline); err != nil {
			fmt.Fprintf(stderr, "%s: -baseline: %v\n", p.Name, err)
			return statusUsage
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	doc := report.Document{Env: measure.Environment()}
	report.Environment(stdout, doc.Env)
	start := time.Now()
	sections, runErr := p.run(ctx, o, stdout, stderr)
	for _, s := range sections {
		doc.Results = append(doc.Results, s.Results...)
	}
	answers := report.Answers(p.Questions, sections)
	if len(answers) > 0 {
		fmt.Fprintln(stdout)
		report.AnswerTable(stdout, answers)
	}
	verdicts := report.Judge(p.Targets, sections)
	doc.Targets = verdicts.Judged
	if len(verdicts.Asked) > 0 {
		fmt.Fprintln(stdout)
		report.TargetTable(stdout, verdicts)
	}
	interrupted := ctx.Err() != nil
	stop() // from here on a second Ctrl-C ends the program
	status := statusOK
	switch {
	case interrupted:
		fmt.Fprintf(stderr, "%s: interrupted; this is what was measured so far\n", p.Name)
		status = statusInterrupted
	case runErr != nil:
		fmt.Fprintf(stderr, "%s: %v\n", p.Name, runErr)
		status = statusFailed
	}

	var comparison *report.Comparison
	if o.Baseline != "" {
		c := report.Compare(baseline, doc)
		comparison = &c
		fmt.Fprintln(stdout)
		c.Write(stdout)
		if o.FailWorse && (len(c.Worse) > 0 || c.Nothing) && status == statusOK {
			status = statusFailed
		}
	}
	write := func(flag, path string, write func() error) {
		if path == "" {
			return
		}
		if err := write(); err != nil {
			fmt.Fprintf(stderr, "%s: -%s: %v\n", p.Name, flag, err)
			status = max(status, statusFailed)
			return
		}
		fmt.Fprintf(stderr, "wrote %s\n", path)
	}
	write("json", o.JSON, func() error { return report.WriteJSON(o.JSON, doc) })
	page := report.Page{Title: p.Title, Command: strings.Join(append([]string{p.Name}, args...), " "),
		Env: doc.Env, Sections: sections, Answers: answers, Verdicts: verdicts, Comparison: comparison, Interrupted: interrupted}
	write("html", o.HTML, func() error { return report.WriteHTML(o.HTML, page) })
	write("doc", o.Doc, func() error { return report.UpdateDocument(o.Doc, p.Name, page) })
	write("svg", o.SVG, func() error { return report.WriteSVG(o.SVG, sections) })
	fmt.Fprintf(stderr, "done in %v\n", time.Since(start).Round(time.Second/10))
	return status
}

// run runs the scenarios and returns what was measured, also after an error.
func (p *Program) run(ctx context.Context, o *Options, stdout, stderr io.Writer) ([]report.Section, error) {
	type planned struct {
		*Scenario
		Plan
	}
	var plans []planned
	var total time.Duration
	for i := range p.Scenarios {
		s := &p.Scenarios[i]
		if len(o.Scenarios) > 0 && !slices.Contains(o.Scenarios, s.Name) {
			continue
		}
		plan, err := s.Plan(o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		plan.Groups = slices.DeleteFunc(plan.Groups, func(g Group) bool { return len(g.Cases) == 0 })
		if len(plan.Groups) == 0 && len(plan.Skipped) == 0 {
			plan.Skipped = append(plan.Skipped, "nothing to measure with these flags")
		}
		for _, g := range plan.Groups {
			total += g.estimate(o)
		}
		plans = append(plans, planned{s, plan})
	}
	line := p.Line
	if line == nil {
		line = measure.LineTime
	}
	progress := newProgress(stderr, total)
	defer progress.close()
	var sections []report.Section
	for _, plan := range plans {
		section := report.Section{Name: plan.Name, Title: plan.Title, About: plan.About, Notes: plan.Skipped}
		var err error
		for _, g := range plan.Groups {
			var results []report.Result
			results, err = g.run(ctx, o, line, progress)
			section.Results = append(section.Results, results...)
			progress.done(results)
			if err != nil {
				err = fmt.Errorf("%s: %w", plan.Name, err)
				break
			}
		}
		if plan.Close != nil {
			plan.Close()
		}
		sections = append(sections, section)
		progress.print(stdout, func(w io.Writer) {
			fmt.Fprintf(w, "\n%s: %s\n", section.Name, section.Title)
			for _, s := range section.Notes {
				fmt.Fprintf(w, "  not measured: %s\n", s)
			}
			if len(section.Results) > 0 {
				report.Table(w, section.Results)
			}
		})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return sections, err
		}
	}
	return sections, nil
}

func (g *Group) rounds(o *Options) int {
	if g.Rounds > 0 {
		return g.Rounds
	}
	return o.Rounds
}

func (c *Case) duration(o *Options) time.Duration {
	if c.Duration > 0 {
		return c.Duration
	}
	return o.Duration
}

func (g *Group) estimate(o *Options) (d time.Duration) {
	for _, c := range g.Cases {
		d += time.Duration(g.rounds(o)) * c.duration(o)
	}
	return d
}

// base is the case that case i is compared with.
func (g *Group) base(i int) int {
	if g.Bases != nil {
		return g.Bases[i]
	}
	return g.Base
}

// run measures a group, interleaved. After an error it returns what it has.
func (g *Group) run(ctx context.Context, o *Options, line func() time.Duration, progress *progress) ([]report.Result, error) {
	samples := make([][]measure.Sample, len(g.Cases))
	var failure error
rounds:
	for range g.rounds(o) {
		for i := range g.Cases {
			c := &g.Cases[i]
			if failure = ctx.Err(); failure != nil {
				break rounds
			}
			progress.at(&c.Result)
			before := line()
			s, err := c.Run(ctx, c.duration(o))
			if err != nil {
				if failure = ctx.Err(); failure == nil {
					failure = fmt.Errorf("%s: %w", strings.TrimSpace(c.Result.Name()+" "+c.Result.Conditions()), err)
				}
				break rounds
			}
			after := line()
			s.Line, s.State = (before+after)/2, measure.StateOf(before, after)
			samples[i] = append(samples[i], s)
			progress.add(c.duration(o))
		}
	}
	var results []report.Result
	for i := range g.Cases {
		for _, r := range report.Fold(g.Cases[i].Result, samples[i]) {
			if at := g.base(i); !g.NoRatio && i != at {
				base := &g.Cases[at].Result
				r.Versus = base.Name()
				if base.Batch > 0 {
					r.Versus += fmt.Sprintf(" batch %d", base.Batch)
				}
				r.Ratio = measure.Ratios(measure.Each(r.Samples, measure.Sample.Cost), measure.Each(measure.InState(samples[at], r.State), measure.Sample.Cost))
			}
			results = append(results, r)
		}
	}
	slices.SortStableFunc(results, func(a, b report.Result) int { return a.State.Order() - b.State.Order() })
	return results, failure
}
