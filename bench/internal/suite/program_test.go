package suite

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
)

// fake is a program whose subjects a, b and c take 100, 200 and 400 ns, times what
// drift says, and log when they ran.
func fake(log *[]string, drift func(run int) float64, fail func(run int) error) *Program {
	run := 0
	return &Program{Name: "fake", Title: "Fake", Line: func() time.Duration { return 0 }, Scenarios: []Scenario{
		{Name: "one", Title: "first", About: "Nothing.", Subjects: []string{"a", "b", "c"}, Plan: func(o *Options) (Plan, error) {
			var g Group
			for i, name := range []string{"a", "b", "c"} {
				if !o.Wants(name) {
					continue
				}
				g.Cases = append(g.Cases, Case{
					Result: report.Result{Scenario: "one", Subject: name, Bytes: new(64), Callers: 1, Codec: "raw"},
					Run: func(_ context.Context, d time.Duration) (measure.Sample, error) {
						*log = append(*log, name)
						run++
						if err := fail(run); err != nil {
							return measure.Sample{}, err
						}
						s := measure.Sample{Latencies: measure.NewHistogram(1), Ops: 10, Bytes: 1280, Busy: d, Elapsed: d}
						measure.Record(s.Latencies, time.Duration(100*float64(int(1)<<i)*drift(run)), 10)
						return s, nil
					},
				})
			}
			return Plan{Groups: []Group{g}, Close: func() { *log = append(*log, "closed") }}, nil
		}},
		{Name: "two", Title: "second", Plan: func(*Options) (Plan, error) { return Plan{Skipped: []string{"there is no two"}}, nil }},
	}}
}

func steady(int) float64 { return 1 }
func fine(int) error     { return nil }

func TestRoundsAreInterleaved(t *testing.T) {
	var log []string
	path := filepath.Join(t.TempDir(), "out.json")
	var out, errs bytes.Buffer
	// The machine gets twice as slow with each round.
	p := fake(&log, func(run int) float64 { return float64(int(1) << ((run - 1) / 3)) }, fine)
	require.Zero(t, p.Main([]string{"-rounds", "3", "-json", path}, &out, &errs), errs.String())
	require.Equal(t, "a b c a b c a b c closed", strings.Join(log, " "))

	require.Contains(t, out.String(), "2 (2 to 2)", "the ratio of b to a does not drift")
	require.Contains(t, out.String(), "4 (4 to 4)")
	require.Contains(t, out.String(), "not measured: there is no two")
	require.Contains(t, errs.String(), "one raw, 64 B, 1 caller: a 200 ns, b 400 ns, c 800 ns", "a plain line for each group")
	d, err := report.ReadJSON(path)
	require.NoError(t, err)
	require.Len(t, d.Results, 3)
	require.Equal(t, 3, d.Results[0].Rounds)
	require.InEpsilon(t, 200, d.Results[0].P50, 0.01)
	require.InEpsilon(t, 400, d.Results[0].Max, 0.01)
}

// A machine that changes its state makes two results of each case, whose ratios are of
// equal states.
func TestStatesAreToldApart(t *testing.T) {
	var log []string
	path := filepath.Join(t.TempDir(), "out.json")
	var out, errs bytes.Buffer
	p := fake(&log, func(run int) float64 {
		if run > 5 {
			return 3
		}
		return 1
	}, fine)
	p.Line = func() time.Duration { // changes while c runs in the second of four rounds
		if len(log) >= 6 {
			return 400
		}
		return 80
	}
	require.Zero(t, p.Main([]string{"-rounds", "4", "-json", path}, &out, &errs), errs.String())
	d, err := report.ReadJSON(path)
	require.NoError(t, err)
	require.Len(t, d.Results, 6)
	for i, want := range []struct {
		subject string
		state   measure.State
		line    int64
		rounds  int
		p50     int
	}{
		{"a", measure.Near, 80, 2, 100}, {"b", measure.Near, 80, 2, 200}, {"c", measure.Near, 80, 1, 400},
		{"a", measure.Far, 400, 2, 300}, {"b", measure.Far, 400, 2, 600}, {"c", measure.Far, 400, 2, 1200},
	} {
		r := d.Results[i]
		require.Equal(t, want.subject, r.Subject)
		require.Equal(t, want.state, r.State)
		require.Equal(t, want.line, r.Line)
		require.Equal(t, want.rounds, r.Rounds)
		require.InEpsilon(t, want.p50, r.P50, 0.01)
	}
	require.Contains(t, errs.String(), "one raw, 64 B, 1 caller, near: a 100 ns")
	require.Contains(t, errs.String(), "one raw, 64 B, 1 caller, far: a 300 ns")
}

func TestFailureKeepsWhatWasMeasured(t *testing.T) {
	var log []string
	dir := t.TempDir()
	var out, errs bytes.Buffer
	p := fake(&log, steady, func(run int) error {
		if run == 5 {
			return errors.New("the worker of b (pid 42) died")
		}
		return nil
	})
	require.Equal(t, 1, p.Main([]string{"-json", filepath.Join(dir, "a.json"), "-html", filepath.Join(dir, "a.html"), "-svg", filepath.Join(dir, "svg")}, &out, &errs))
	require.Contains(t, errs.String(), "one: b raw, 64 B, 1 caller: the worker of b (pid 42) died")
	require.Equal(t, "closed", log[len(log)-1])
	d, err := report.ReadJSON(filepath.Join(dir, "a.json"))
	require.NoError(t, err)
	require.Len(t, d.Results, 3)
	require.Equal(t, 2, d.Results[0].Rounds)
	require.Equal(t, 1, d.Results[1].Rounds)
	require.FileExists(t, filepath.Join(dir, "a.html"))
}

func TestFlags(t *testing.T) {
	notJSON := filepath.Join(t.TempDir(), "x.json")
	require.NoError(t, os.WriteFile(notJSON, []byte(`{"results": 1}`), 0o600))
	empty := filepath.Join(t.TempDir(), "y.json")
	require.NoError(t, os.WriteFile(empty, []byte(`{}`), 0o600))
	for args, want := range map[string]string{
		"-rounds 0":                     "-rounds 0: allowed are 1 to 1000",
		"-rounds many":                  "invalid value",
		"-duration 0":                   "-duration 0s: allowed are 1ms",
		"-duration 2h":                  "allowed are 1ms to 1m0s",
		"-sizes 64,lots":                `size "lots"`,
		"-sizes -1":                     `size "-1"`,
		"-sizes 1Gi":                    `size "1Gi"`,
		"-sizes 129Mi":                  "allowed are 0 to 128Mi",
		"-subjects a,z":                 `"z" is unknown; there are: a, b, c`,
		"-wait forever":                 `"forever" is unknown; there are: adaptive, spin, park`,
		"-codec xml":                    "there are: raw, fixed, cbor, json",
		"-callers 0":                    "allowed are 1 to 4096",
		"-callers":                      "needs an argument",
		"-fast":                         "not defined: -fast",
		"three":                         `no scenario "three"; there are: one, two`,
		"one one":                       "given twice",
		"one -quick":                    "flags come first",
		"-fail-worse":                   "needs -baseline",
		"-baseline /does/not/exist":     "no such file",
		"-baseline " + notJSON:          "is not a report",
		"-baseline " + empty + " -html": "needs an argument",
		"-baseline " + empty:            "lacks env or results",
	} {
		var log []string
		var out, errs bytes.Buffer
		require.Equal(t, 2, fake(&log, steady, fine).Main(strings.Fields(args), &out, &errs), args)
		require.Contains(t, errs.String(), want, args)
		require.Empty(t, log, "nothing was measured")
		require.Empty(t, out.String())
	}
	var log []string
	var out, errs bytes.Buffer
	require.Zero(t, fake(&log, steady, fine).Main([]string{"-help"}, &out, &errs))
	require.Contains(t, errs.String(), "Scenarios (default: all):\n  one         first\n")
}

func TestOptions(t *testing.T) {
	var log []string
	var errs bytes.Buffer
	p := fake(&log, steady, fine)
	o, err := p.parse(strings.Fields("-sizes 0,64,4Ki,4KiB,1M,10B -callers 1,8 -wait park,spin -codec json -subjects b,c -duration 3ms -rounds 5 two"), &errs)
	require.NoError(t, err, errs.String())
	require.Equal(t, []int{0, 64, 4096, 1 << 20, 10}, o.Sizes)
	require.Equal(t, []int{1, 8}, o.Callers)
	require.Equal(t, []string{"park", "spin"}, o.Waits)
	require.Equal(t, 3*time.Millisecond, o.Duration)
	require.Equal(t, 5, o.Rounds)
	require.Equal(t, []string{"two"}, o.Scenarios)
	require.False(t, o.Wants("a"))
	require.True(t, o.Wants("b"))
	require.Equal(t, []int{9}, Given(o, nil, []int{9}, []int{1}))
	require.Equal(t, []int{7}, Given(o, []int{7}, []int{9}, []int{1}))

	quick, err := p.parse([]string{"-quick"}, &errs)
	require.NoError(t, err)
	require.Equal(t, quickRounds, quick.Rounds)
	require.Equal(t, []int{1}, Given(quick, nil, []int{9}, []int{1}))
	full, err := p.parse(nil, &errs)
	require.NoError(t, err)
	require.Greater(t, full.Rounds, quick.Rounds)
	require.Greater(t, full.Duration, quick.Duration)
	require.True(t, full.Wants("anything"))
}

func TestSelectedSubjects(t *testing.T) {
	var log []string
	var out, errs bytes.Buffer
	require.Zero(t, fake(&log, steady, fine).Main([]string{"-rounds", "2", "-subjects", "c", "one"}, &out, &errs))
	require.Equal(t, "c c closed", strings.Join(log, " "))
}
