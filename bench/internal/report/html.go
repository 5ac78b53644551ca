package report

import (
	"bytes"
	_ "embed"
	"html/template"
	"os"

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
	Targets        []Target
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
		Views      []sectionView
		Comparison string
	}
	sectionView struct {
		Section
		Charts []chartView
		Titles []titleView
		Rows   []rowView
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

// aboutStates says what the states of the machine are, "" if they are not known.
func aboutStates(sections []Section) string {
	charted := chartedState(sections)
	if charted == measure.Unknown {
		return ""
	}
	return "How long a cache line takes from one processor to another and back changes on virtual machines, for seconds each, and all figures " +
		"move with it. It was timed before and after each sample: line. Processors are near below 200 ns, and far above. Only figures of equal states " +
		"are compared, and samples in which the state changed are left out. Charts are of the state " + string(charted) + "."
}

// WriteHTML writes the page, which needs no other file, to a file.
func WriteHTML(path string, p Page) error {
	v := pageView{Page: p, Environment: environment(p.Env), States: aboutStates(p.Sections)}
	if p.Comparison != nil {
		var b bytes.Buffer
		p.Comparison.Write(&b)
		v.Comparison = b.String()
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
			for i, l := range c.Lines {
				cv.Legend = append(cv.Legend, legendView{l.Name, template.CSS("#" + colourOf(l.Name, i))})
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
	if len(p.Targets) > 0 {
		view := sectionView{Section: Section{Name: "targets", Title: targetsTitle, About: targetsAbout}}
		titles, rows := targetCells(p.Targets)
		for _, title := range titles {
			view.Titles = append(view.Titles, titleView{title, true})
		}
		for _, row := range rows {
			var cells []titleView
			for _, text := range row {
				cells = append(cells, titleView{text, true})
			}
			view.Rows = append(view.Rows, rowView{Cells: cells})
		}
		v.Views = append(v.Views, view)
	}
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
