package suite

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options are what the command line says.
type Options struct {
	Quick     bool
	Scenarios []string
	// What is empty or zero here was not given, and is the scenario's to choose.
	Subjects []string
	Sizes    []int
	Waits    []string
	Codecs   []string
	Callers  []int

	Rounds   int
	Duration time.Duration

	JSON, HTML, SVG string
	Doc             string
	Baseline        string
	FailWorse       bool
}

// Wants reports whether a subject is among those that were chosen.
func (o *Options) Wants(subject string) bool {
	return len(o.Subjects) == 0 || slices.Contains(o.Subjects, subject)
}

// Given returns what was given, or else one of two defaults.
func Given[T any](o *Options, given, full, quick []T) []T {
	switch {
	case len(given) > 0:
		return given
	case o.Quick:
		return quick
	}
	return full
}

const (
	fullRounds, quickRounds     = 7, 3
	fullDuration, quickDuration = 200 * time.Millisecond, 60 * time.Millisecond

	maxRounds, maxDuration = 1000, time.Minute
	maxSize, maxCallers    = 128 << 20, 4096
)

var (
	allWaits  = []string{"adaptive", "spin", "park"}
	allCodecs = []string{"raw", "fixed", "cbor", "json"}
)

// parse reads the command line. It has told the user about an error.
func (p *Program) parse(args []string, errors_ io.Writer) (*Options, error) {
	o := &Options{}
	f := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&o.Quick, "quick", false, "fewer rounds, sizes and callers: done within a minute")
	f.Func("subjects", "`names` to measure: "+strings.Join(p.subjects(), ", "), list(&o.Subjects, oneOf(p.subjects())))
	f.Func("sizes", "payload `sizes`, such as 64,4Ki,1Mi", list(&o.Sizes, parseSize))
	f.IntVar(&o.Rounds, "rounds", 0, fmt.Sprintf("`number` of rounds (default %d, quick %d)", fullRounds, quickRounds))
	f.DurationVar(&o.Duration, "duration", 0, fmt.Sprintf("`time` for each subject in each round (default %v, quick %v)", fullDuration, quickDuration))
	f.Func("wait", "`strategies` of waiting of shm: "+strings.Join(allWaits, ", "), list(&o.Waits, oneOf(allWaits)))
	f.Func("codec", "`codecs`: "+strings.Join(allCodecs, ", "), list(&o.Codecs, oneOf(allCodecs)))
	f.Func("callers", "`numbers` of concurrent callers, and of idle workers, such as 1,8,64", list(&o.Callers, parseCallers))
	f.StringVar(&o.JSON, "json", "", "write the results as JSON to this `file`")
	f.StringVar(&o.HTML, "html", "", "write a page with charts to this `file`")
	f.StringVar(&o.SVG, "svg", "", "write the charts as SVG files into this `directory`")
	f.StringVar(&o.Doc, "doc", "", "update the figures and charts in this Markdown `file`")
	f.StringVar(&o.Baseline, "baseline", "", "compare with the JSON `file` of an earlier run")
	f.BoolVar(&o.FailWorse, "fail-worse", false, "exit with status 1 if something got worse than in the baseline")

	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		f.SetOutput(errors_)
		fmt.Fprintf(errors_, "Usage: %s [flags] [scenario ...]\n\nScenarios (default: all):\n", p.Name)
		for _, s := range p.Scenarios {
			fmt.Fprintf(errors_, "  %-11s %s\n", s.Name, s.Title)
		}
		fmt.Fprintln(errors_, "\nFlags:")
		f.PrintDefaults()
		return nil, err
	}
	if err == nil {
		o.Scenarios = f.Args()
		err = p.check(o, f)
	}
	if err != nil {
		fmt.Fprintf(errors_, "%s: %v\nRun with -help for the flags.\n", p.Name, err)
		return nil, err
	}
	if o.Rounds == 0 {
		o.Rounds = fullRounds
		if o.Quick {
			o.Rounds = quickRounds
		}
	}
	if o.Duration == 0 {
		o.Duration = fullDuration
		if o.Quick {
			o.Duration = quickDuration
		}
	}
	return o, nil
}

func (p *Program) check(o *Options, f *flag.FlagSet) error {
	given := make(map[string]bool)
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for i, name := range o.Scenarios {
		if p.scenario(name) == nil {
			if strings.HasPrefix(name, "-") {
				return fmt.Errorf("flag %s comes after a scenario; flags come first", name)
			}
			return fmt.Errorf("no scenario %q; there are: %s", name, strings.Join(p.names(), ", "))
		}
		if slices.Contains(o.Scenarios[:i], name) {
			return fmt.Errorf("scenario %q is given twice", name)
		}
	}
	switch {
	case given["rounds"] && (o.Rounds < 1 || o.Rounds > maxRounds):
		return fmt.Errorf("-rounds %d: allowed are 1 to %d", o.Rounds, maxRounds)
	case given["duration"] && (o.Duration < time.Millisecond || o.Duration > maxDuration):
		return fmt.Errorf("-duration %v: allowed are 1ms to %v", o.Duration, maxDuration)
	case o.FailWorse && o.Baseline == "":
		return errors.New("-fail-worse needs -baseline FILE to compare with")
	}
	return nil
}

// list parses a list that is separated by commas.
func list[T comparable](into *[]T, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		for part := range strings.SplitSeq(s, ",") {
			v, err := parse(strings.TrimSpace(part))
			if err != nil {
				return err
			}
			if !slices.Contains(*into, v) {
				*into = append(*into, v)
			}
		}
		return nil
	}
}

func oneOf(known []string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(known, s) {
			return "", fmt.Errorf("%q is unknown; there are: %s", s, strings.Join(known, ", "))
		}
		return s, nil
	}
}

func parseSize(s string) (int, error) {
	digits, shift := s, 0
	for _, unit := range []struct {
		suffix string
		shift  int
	}{{"MiB", 20}, {"KiB", 10}, {"Mi", 20}, {"Ki", 10}, {"M", 20}, {"K", 10}, {"k", 10}, {"B", 0}} {
		if rest, ok := strings.CutSuffix(s, unit.suffix); ok {
			digits, shift = rest, unit.shift
			break
		}
	}
	n, err := strconv.Atoi(strings.TrimSpace(digits))
	if err != nil || n < 0 || n > maxSize>>shift {
		return 0, fmt.Errorf("size %q: allowed are 0 to 128Mi, such as 64, 4Ki or 1Mi", s)
	}
	return n << shift, nil
}

func parseCallers(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxCallers {
		return 0, fmt.Errorf("%q callers: allowed are 1 to %d", s, maxCallers)
	}
	return n, nil
}
