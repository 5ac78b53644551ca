package report

import (
	"bytes"
	_ "embed"
	"html/template"
	"os"
	"regexp"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// Section is what a scenario measured.
type Section struct {
	Name, Title, About string
	Results            []Result
	// Notes say what was not measured.
	Notes []string
}

// Page is what WriteHTML writes.
type Page struct {
	Title, Command string
	Env            measure.Env
	Sections       []Section
	Answers        []Answer
	Verdicts       Verdicts
	Comparison     *Comparison
	Interrupted    bool
}

//go:embed page.html
var pageTemplate string

var page = template.Must(template.New("page").Parse(pageTemplate))

// What the template sees.
type (
	pageView struct {
		Page
		Environment [][2]string
		// States says what is meant by them, if there are any.
		States     string
		Answered   []answerView
		Targets    *sectionView // nil if there are none
		Views      []sectionView
		Comparison string
	}
	sectionView struct {
		Section
		Charts []chartView
		Titles []titleView
		Rows   []rowView
	}
	answerView struct {
		Answer
		Times string
		Bar   int // its length, in percent
	}
	rowView struct {
		// First says that here begins what is compared with each other.
		First bool
		Cells []titleView
	}
	chartView struct {
		Chart
		Wide, Narrow template.HTML
		Legend       []legendView
	}
	legendView struct {
		Name   string
		Colour template.CSS
	}
	// titleView is the cell of a table.
	titleView struct {
		Text string
		Left bool
	}
)

// units are after the figures that they belong to.
var units = regexp.MustCompile(`(\d) ((?:[KM]i|M)?B|[kMG](?:/s)?|ns|µs|ms|s)\b`)

// unbroken keeps figures and their units on one line.
func unbroken(s string) string { return units.ReplaceAllString(s, "$1\u00a0$2") }

// WriteHTML writes the page, which needs no other file, to a file.
func WriteHTML(path string, p Page) error {
	v := pageView{Page: p, Environment: environment(p.Env), States: aboutStates(p.Sections)}
	if p.Comparison != nil {
		var b bytes.Buffer
		p.Comparison.Write(&b)
		v.Comparison = b.String()
	}
	for _, a := range p.Answers {
		v.Answered = append(v.Answered, answerView{a, factor(a.Ratio) + "x", a.width()})
		v.Answered[len(v.Answered)-1].Load = unbroken(a.Load)
	}
	all := charts(p.Sections)
	for _, s := range p.Sections {
		view := sectionView{Section: s}
		for _, c := range all[s.Name] {
			cv := chartView{Chart: c}
			for _, f := range []struct {
				format
				into *template.HTML
			}{{wide, &cv.Wide}, {narrow, &cv.Narrow}} {
				s, err := c.svg(f.format)
				if err != nil {
					return err
				}
				*f.into = template.HTML(s) //nolint:gosec // from our own figures and names
			}
			for _, l := range c.Lines {
				cv.Legend = append(cv.Legend, legendView{l.Name, template.CSS("#" + l.Colour)})
			}
			view.Charts = append(view.Charts, cv)
		}
		titles, rows := cells(s.Results)
		for _, c := range titles {
			view.Titles = append(view.Titles, titleView{c.title, c.left})
		}
		for n, row := range rows {
			var cells []titleView
			for i, text := range row {
				cells = append(cells, titleView{text, titles[i].left})
			}
			view.Rows = append(view.Rows, rowView{n > 0 && s.Results[n].Ratio.N == 0 && s.Results[n].Conditions() != s.Results[n-1].Conditions(), cells})
		}
		v.Views = append(v.Views, view)
	}
	if len(p.Verdicts.Asked) > 0 {
		titles, rows := p.Verdicts.cells()
		v.Targets = &sectionView{Section: Section{Name: "targets", Title: targetsTitle, About: targetsAbout, Notes: p.Verdicts.Missing}}
		for _, title := range titles {
			v.Targets.Titles = append(v.Targets.Titles, titleView{title, true})
		}
		for _, row := range rows {
			var cells []titleView
			for _, text := range row {
				cells = append(cells, titleView{unbroken(text), true})
			}
			v.Targets.Rows = append(v.Targets.Rows, rowView{Cells: cells})
		}
	}
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
