package report

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// figures is a block of a document that a program fills in:
//
//	<!-- figures: PROGRAM environment -->
//	<!-- figures: PROGRAM answers -->
//	<!-- figures: PROGRAM targets -->
//	<!-- figures: PROGRAM SCENARIO METRIC [CONDITIONS] -->
//	...
//	<!-- end of figures -->
//
// METRIC is the title of a column, with _ for a space, and makes a table of
// subjects by conditions; or it is "list", for one row to each result that has a
// median, with those columns: list=p50;allocs/op. CONDITIONS is a regular expression
// that selects results.
var figures = regexp.MustCompile(`(?s)(<!-- figures: ([^\n]+?) -->\n)(.*?)(<!-- end of figures -->)`)

// image is a chart that a document shows.
var image = regexp.MustCompile(`\]\(([^)]*?([\w-]+)\.svg)\)`)

// UpdateDocument replaces the blocks of figures in a Markdown file that this
// program has measured, and writes the charts that it shows.
func UpdateDocument(path, program string, p Page) error {
	program = filepath.Base(program)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	filled := 0
	var failed error
	text = figures.ReplaceAllFunc(text, func(block []byte) []byte {
		m := figures.FindSubmatch(block)
		words := append(strings.SplitN(string(m[2]), " ", 4), "", "", "")
		by, scenario, metric := words[0], words[1], strings.ReplaceAll(words[2], "_", " ")
		conditions, err := regexp.Compile(words[3])
		if err != nil {
			failed = fmt.Errorf("%s: figures of %s: %w", path, scenario, err)
			return block
		}
		if by != program {
			return block
		}
		var b bytes.Buffer
		columns, isList := strings.CutPrefix(metric, "list=")
		switch i := slices.IndexFunc(p.Sections, func(s Section) bool { return s.Name == scenario }); {
		case scenario == "environment":
			for _, line := range environment(p.Env) {
				if line[0] != "Clock" {
					fmt.Fprintf(&b, "- %s: %s\n", line[0], line[1])
				}
			}
		case scenario == "answers":
			markdownAnswers(&b, p.Answers)
		case scenario == "targets":
			markdownTargets(&b, p.Verdicts)
		case i < 0: // was not measured this time
		case isList:
			list(&b, p.Sections[i].Results, strings.Split(columns, ";"), conditions)
		default:
			pivot(&b, p.Sections[i].Results, metric, conditions)
		}
		if b.Len() == 0 {
			return block
		}
		filled++
		return slices.Concat(m[1], []byte("\n"), b.Bytes(), []byte("\n"), m[4])
	})
	if failed != nil {
		return failed
	}
	if filled == 0 {
		return fmt.Errorf("%s has no block of figures that this run has measured", path)
	}
	for _, list := range charts(p.Sections) {
		for _, c := range list {
			for _, m := range image.FindAllSubmatch(text, -1) {
				if string(m[2]) != c.ID {
					continue
				}
				s, err := c.svg(file)
				if err != nil {
					return err
				}
				to := filepath.Join(filepath.Dir(path), string(m[1]))
				if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(to, []byte(s+"\n"), 0o644); err != nil {
					return err
				}
			}
		}
	}
	return os.WriteFile(path, text, 0o644)
}

// list writes the columns with those titles, of the results that have a median and
// whose conditions are selected.
func list(b *bytes.Buffer, results []Result, titles []string, conditions *regexp.Regexp) {
	var chosen []column
	for _, title := range titles {
		if i := slices.IndexFunc(columns, func(c column) bool { return c.title == title }); i >= 0 {
			chosen = append(chosen, columns[i])
		}
	}
	for i := range results {
		r := &results[i]
		if r.P50 == 0 || !conditions.MatchString(r.Conditions()) {
			continue
		}
		if b.Len() == 0 {
			fmt.Fprintf(b, "|  |  | %s |\n| --- | --- |%s\n", strings.Join(titles, " | "), strings.Repeat(" ---: |", len(chosen)))
		}
		fmt.Fprintf(b, "| %s | %s |", r.Name(), r.Conditions())
		for _, c := range chosen {
			fmt.Fprintf(b, " %s |", c.cell(r))
		}
		fmt.Fprintln(b)
	}
}

// pivot writes a table of one metric: a row for each subject, a column for each
// of the conditions that are selected.
func pivot(b *bytes.Buffer, results []Result, metric string, selected *regexp.Regexp) {
	i := slices.IndexFunc(columns, func(c column) bool { return c.title == metric })
	if i < 0 {
		return
	}
	cell := columns[i].cell
	keep := func(r *Result) bool { return cell(r) != "" && selected.MatchString(r.Conditions()) }
	// The codec belongs to the subject where each has but one, and not all the same.
	codecs := make(map[string]bool)
	codecOf := make(map[string]string)
	several := false
	for i := range results {
		if r := &results[i]; keep(r) {
			codecs[r.Codec] = true
			old, ok := codecOf[r.Name()]
			several = several || ok && old != r.Codec
			codecOf[r.Name()] = r.Codec
		}
	}
	var rows []string
	var conditions [][]string // of each column
	values := make(map[[2]string]string)
	for i := range results {
		r := &results[i]
		if !keep(r) {
			continue
		}
		name, plain := r.Name(), *r
		if !several {
			if plain.Codec = ""; len(codecs) > 1 && r.Codec != "" {
				name += " (" + r.Codec + ")"
			}
		}
		all := plain.Conditions()
		if !slices.Contains(rows, name) {
			rows = append(rows, name)
		}
		if !slices.ContainsFunc(conditions, func(c []string) bool { return strings.Join(c, ", ") == all }) {
			conditions = append(conditions, strings.Split(all, ", "))
		}
		values[[2]string{name, all}] = cell(r)
	}
	if len(rows) == 0 {
		return
	}
	// What is the same in all columns is no title.
	titles := make([]string, len(conditions))
	for i, c := range conditions {
		var own []string
		for _, s := range c {
			if slices.ContainsFunc(conditions, func(other []string) bool { return !slices.Contains(other, s) }) {
				own = append(own, s)
			}
		}
		titles[i] = strings.Join(own, ", ")
		if titles[i] == "" {
			titles[i] = metric
		}
	}
	fmt.Fprintf(b, "| %s | %s |\n", "", strings.Join(titles, " | "))
	fmt.Fprintf(b, "| --- |%s\n", strings.Repeat(" ---: |", len(titles)))
	for _, row := range rows {
		fmt.Fprintf(b, "| %s |", row)
		for _, c := range conditions {
			fmt.Fprintf(b, " %s |", values[[2]string{row, strings.Join(c, ", ")}])
		}
		fmt.Fprintln(b)
	}
}
