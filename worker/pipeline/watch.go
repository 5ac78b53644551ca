package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"
)

// Watch shows what a run does until ctx ends, and then once more: on a terminal a table that is
// drawn anew each time that every has passed, otherwise a line each time. stats is the method of the flow that
// runs, [Flow.Stats]. Rates are of the time since the last look. Watch panics unless every is
// positive, and ends early if w cannot be written to.
//
//	watched := make(chan struct{})
//	ctx, stop := context.WithCancel(ctx)
//	go func() { defer close(watched); pipeline.Watch(ctx, os.Stderr, hits.Stats, time.Second) }()
//	err := hits.Into(ctx, sink)
//	stop()
//	<-watched
func Watch(ctx context.Context, w io.Writer, stats func() Stats, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	v := viewer{w: w, live: isTerminal(w)}
	for over := false; !over; {
		select {
		case <-t.C:
		case <-ctx.Done():
			over = true
		}
		if v.show(stats(), over) != nil {
			return
		}
	}
}

// isTerminal reports whether w is a terminal, as far as package os can tell.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// viewer shows one Stats after the other.
type viewer struct {
	w     io.Writer
	live  bool
	last  Stats
	lines int // of the table that is shown
}

// show shows s. over says that it is the last, of which the rates are of the whole run.
func (v *viewer) show(s Stats, over bool) error {
	before := v.last
	if over || before.Elapsed >= s.Elapsed || len(before.Stages) != len(s.Stages) {
		before = Stats{Stages: make([]StageStats, len(s.Stages))}
	}
	v.last = s
	var out bytes.Buffer
	if v.live {
		if v.lines > 0 {
			fmt.Fprintf(&out, "\x1b[%dA\x1b[J", v.lines)
		}
		start := out.Len()
		v.table(&out, s, before)
		v.lines = bytes.Count(out.Bytes()[start:], []byte("\n"))
	} else {
		v.line(&out, s, before)
	}
	_, err := v.w.Write(out.Bytes())
	return err
}

// line writes s in one line.
func (v *viewer) line(out *bytes.Buffer, s, before Stats) {
	seconds := max((s.Elapsed - before.Elapsed).Seconds(), 1e-9)
	fmt.Fprintf(out, "%s  %s", s.Elapsed.Round(time.Millisecond), progress(s, before, seconds))
	for i, st := range s.Stages {
		was := before.Stages[i]
		fmt.Fprintf(out, "; %s %s/s, %d queued, %.0f %% busy", st.Name, short(float64(st.In-was.In)/seconds), st.Queued, 100*share(st.Busy-was.Busy, s.Elapsed-before.Elapsed))
		for _, n := range []struct {
			what  string
			count uint64
		}{{"restarts", st.Workers.Restarts}, {"retries", st.Retries}, {"dead letters", st.DeadLetters}, {"skipped", st.Skipped}} {
			if n.count > 0 {
				fmt.Fprintf(out, ", %d %s", n.count, n.what)
			}
		}
	}
	out.WriteByte('\n')
}

// table writes s as a table.
func (v *viewer) table(out *bytes.Buffer, s, before Stats) {
	seconds := max((s.Elapsed - before.Elapsed).Seconds(), 1e-9)
	fmt.Fprintf(out, "%s  %s\n", s.Elapsed.Round(time.Second/10), progress(s, before, seconds))
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "stage\trecords/s\tMB/s\trecords\tqueue\theld\tbatch\tp50\tp99\tbusy\tworkers\trestarts\tretries\tdead\t")
	for i, st := range s.Stages {
		was := before.Stages[i]
		fmt.Fprintf(t, "%s\t%s\t%.1f\t%d\t%d\t%.0f %%\t%.0f\t%v\t%v\t%.0f %%\t%d\t%d\t%d\t%d\t\n",
			st.Name, short(float64(st.In-was.In)/seconds), float64(st.BytesIn-was.BytesIn)/seconds/1e6, st.In, st.Queued,
			100*float64(st.Held)/float64(max(st.Window, 1)), st.Records.Mean, brief(st.Latency.P50), brief(st.Latency.P99),
			100*share(st.Busy-was.Busy, s.Elapsed-before.Elapsed), st.Workers.Size, st.Workers.Restarts, st.Retries, st.DeadLetters)
	}
	_ = t.Flush()
}

// progress says how far the source is, and how long the rest takes.
func progress(s, before Stats, seconds float64) string {
	text := fmt.Sprintf("%d records", s.Position)
	if s.Size > 0 {
		text = fmt.Sprintf("%d of %d records, %.0f %%", s.Position, s.Size, 100*float64(s.Position)/float64(s.Size))
	}
	text += fmt.Sprintf(", %s/s", short(float64(s.Position-min(before.Position, s.Position))/seconds))
	if left, ok := s.Remaining(); ok && left > 0 {
		text += fmt.Sprintf(", %v left", left.Round(time.Second))
	}
	return text
}

func share(part, of time.Duration) float64 {
	if of <= 0 {
		return 0
	}
	return min(max(float64(part)/float64(of), 0), 1)
}

// short writes a number in a few characters.
func short(x float64) string {
	switch {
	case x >= 1e6:
		return fmt.Sprintf("%.1f M", x/1e6)
	case x >= 1e4:
		return fmt.Sprintf("%.0f k", x/1e3)
	}
	return fmt.Sprintf("%.0f", x)
}

// brief rounds a duration to two or three digits.
func brief(d time.Duration) time.Duration {
	for unit := time.Duration(10); ; unit *= 10 {
		if d < 100*unit {
			return d.Round(unit / 10)
		}
	}
}
