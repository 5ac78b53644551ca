package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// report is what a run prints.
type report struct {
	driver     string
	host       *Host
	unreadable int64
	words      []Entry
	elapsed    time.Duration
}

func (r report) print(out io.Writer) error {
	w := bufio.NewWriter(out)
	h := r.host
	table(w, func(row func(...any)) {
		row("lines", h.totals.Lines)
		row("words", h.totals.Words)
		row("bytes", h.totals.Bytes)
		row("files", h.files)
		row("unreadable", r.unreadable)
	})
	fmt.Fprintln(w)
	for _, e := range r.words {
		fmt.Fprintf(w, "%*d  %s\n", digits(r.words[0].Count), e.Count, show(e.Word))
	}
	if len(r.words) > 0 {
		fmt.Fprintln(w)
	}
	table(w, func(row func(...any)) {
		row("worker", "pid", "calls", "bytes", "MB/s")
		var calls, bytes int64
		for i, p := range h.workers {
			calls, bytes = calls+p.calls.Load(), bytes+p.bytes.Load()
			row(i+1, p.PID(), p.calls.Load(), p.bytes.Load(), r.rate(p.bytes.Load()))
		}
		row("all", "", calls, bytes, r.rate(bytes))
	})
	fmt.Fprintf(w, "\n%d bytes in %.3f s over %s: %s MB/s\n", h.totals.Bytes, r.elapsed.Seconds(), r.driver, r.rate(h.totals.Bytes))
	return w.Flush()
}

// rate is in millions of bytes a second.
func (r report) rate(bytes int64) string {
	return strconv.FormatFloat(float64(bytes)/1e6/r.elapsed.Seconds(), 'f', 1, 64)
}

// table prints rows of right-aligned columns.
func table(out io.Writer, rows func(row func(...any))) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	rows(func(cells ...any) {
		for _, c := range cells {
			fmt.Fprint(w, c, "\t")
		}
		fmt.Fprintln(w)
	})
	w.Flush() // out keeps its error
}

func digits(n int64) int { return len(strconv.FormatInt(n, 10)) }

// maxShown is how many characters of a word are printed.
const maxShown = 40

// show quotes a word that a terminal cannot show as it is, and cuts a long one.
func show(word []byte) string {
	s, end := string(word), ""
	if utf8.RuneCountInString(s) > maxShown {
		s, end = string([]rune(s)[:maxShown]), "..."
	}
	if !utf8.Valid(word) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		s = strconv.Quote(s)
	}
	return s + end
}
