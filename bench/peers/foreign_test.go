package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ring"
)

// foreignVariable lets the tests build and run the programs of other languages.
const foreignVariable = "TANDEM_BENCH_FOREIGN"

const fakeForeign = "fake-foreign"

var fakeProgram = &foreign{name: "fake"}

// fake is a foreign program that behaves as mode says: this one again.
func fake(t *testing.T, mode string) []string {
	self, err := os.Executable()
	require.NoError(t, err)
	return []string{self, fakeForeign, mode}
}

// serveFake does not return in a process that fake has started. It has the arguments of a
// foreign program after the mode.
func serveFake() {
	if len(os.Args) != 5 || os.Args[1] != fakeForeign {
		return
	}
	mode, ping, dir := os.Args[2], os.Args[3] == "ping", os.Args[4]
	// What shared memory of such a program would be.
	if err := os.WriteFile(dir+"-segment", nil, 0o600); err != nil {
		panic(err)
	}
	told := filepath.Join(dir, "stop")
	lines := make(chan string)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
		os.Exit(0)
	}()
	for line := range lines {
		words := strings.Fields(line)
		switch {
		case !ping:
			fmt.Println(`{"ready":true}`)
			for _, err := os.Stat(told); err != nil; _, err = os.Stat(told) {
				time.Sleep(time.Millisecond)
			}
			_ = os.Remove(told)
			fmt.Println(`{"served":true}`)
		case len(words) == 2:
			if err := os.WriteFile(told, nil, 0o600); err != nil {
				panic(err)
			}
			fmt.Println(`{"stopped":true}`)
		case mode == "dies":
			os.Exit(3)
		case mode == "fails":
			fmt.Println(`{"error":"no shared memory is left"}`)
		case mode == "talks":
			fmt.Println(`WARNING: something`)
		default:
			runs, err := os.OpenFile(dir+"-runs", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err == nil {
				_, err = fmt.Fprintln(runs, words[2])
			}
			if err != nil {
				panic(err)
			}
			runs.Close()
			fmt.Printf(`{"bytes":%s,"ops":3,"busy_ns":600,"elapsed_ns":700,"counts":[[100,2],[400,1]]}`+"\n", words[1])
		}
	}
}

func TestPairMeasures(t *testing.T) {
	all := new(foreigners)
	for range 2 {
		for _, kind := range []string{"echo", oneWayKind} {
			s, err := all.measure(context.Background(), fakeProgram, fake(t, "works"), kind, 64, time.Millisecond, 0)
			require.NoError(t, err)
			require.EqualValues(t, 3, s.Ops)
			require.Equal(t, 600*time.Nanosecond, s.Busy)
			require.Equal(t, kind == oneWayKind, s.Latencies == nil)
		}
	}
	s, err := all.measure(context.Background(), fakeProgram, fake(t, "works"), eventKind, 64, time.Millisecond, time.Microsecond)
	require.NoError(t, err)
	require.Zero(t, s.Bytes, "an event carries none")
	require.Equal(t, s.Elapsed, s.Busy, "with a pace, operations per second are of all the time")
	require.Len(t, all.pairs, 1, "it is started once")
	dir := all.pairs["fake"].dir
	all.close()
	left, err := filepath.Glob(dir + "*")
	require.NoError(t, err)
	require.Empty(t, left)
}

// What compiles while it runs warms up for long, once for each kind and size.
func TestPairWarmsUp(t *testing.T) {
	all := new(foreigners)
	defer all.close()
	slow := &foreign{name: "fake", warm: 3 * time.Second}
	for _, test := range []struct {
		kind string
		size int
		want []time.Duration // of the runs, the last of which is measured
	}{
		{"echo", 64, []time.Duration{3 * time.Second, 30 * time.Millisecond}},
		{"echo", 64, []time.Duration{10 * time.Millisecond, 30 * time.Millisecond}},
		{"echo", 65, []time.Duration{3 * time.Second, 30 * time.Millisecond}},
		{oneWayKind, 64, []time.Duration{3 * time.Second, 30 * time.Millisecond}},
		{oneWayKind, 64, []time.Duration{10 * time.Millisecond, 30 * time.Millisecond}},
	} {
		_, err := all.measure(context.Background(), slow, fake(t, "works"), test.kind, test.size, 30*time.Millisecond, 0)
		require.NoError(t, err)
		log := all.pairs["fake"].dir + "-runs"
		data, err := os.ReadFile(log)
		require.NoError(t, err)
		require.NoError(t, os.Remove(log))
		var got []time.Duration
		for _, line := range strings.Fields(string(data)) {
			n, err := strconv.ParseInt(line, 10, 64)
			require.NoError(t, err)
			got = append(got, time.Duration(n))
		}
		require.Equal(t, test.want, got, "%s %d", test.kind, test.size)
	}
}

func TestPairErrors(t *testing.T) {
	for mode, want := range map[string]string{
		"dies": "fake ping (pid ", "fails": "no shared memory is left", "talks": `not an answer`,
	} {
		t.Run(mode, func(t *testing.T) {
			all := new(foreigners)
			defer all.close()
			_, err := all.measure(context.Background(), fakeProgram, fake(t, mode), "echo", 64, time.Millisecond, 0)
			require.ErrorContains(t, err, want)
		})
	}
	_, err := startPair("fake", []string{filepath.Join(t.TempDir(), "none")})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A process that waits for ever ends with the run.
func TestPairEndsWithContext(t *testing.T) {
	all := new(foreigners)
	defer all.close()
	_, err := all.measure(context.Background(), fakeProgram, fake(t, "works"), "echo", 64, time.Millisecond, 0)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = all.measure(ctx, fakeProgram, fake(t, "works"), "echo", 64, time.Hour, 0)
	require.ErrorIs(t, err, context.Canceled)
}

func TestAnswers(t *testing.T) {
	const good = `{"bytes":64,"ops":5,"busy_ns":1500,"elapsed_ns":2000,"ops_per_s":3333333.3,"bytes_per_s":426666666.7,` +
		`"p50_ns":300,"p90_ns":400,"p99_ns":400,"p999_ns":400,"max_ns":400,"counts":[[100,1],[300,3],[400,1]]}`
	a, err := parseAnswer([]byte(good))
	require.NoError(t, err)
	s, err := a.sample(64, false)
	require.NoError(t, err)
	require.EqualValues(t, 5, s.Ops)
	require.EqualValues(t, 2*5*64, s.Bytes)
	require.Equal(t, 1500*time.Nanosecond, s.Busy)
	require.Equal(t, 2000*time.Nanosecond, s.Elapsed)
	for q, want := range map[float64]int64{50: a.P50, 90: a.P90, 99: a.P99, 99.9: a.P999, 100: a.Max} {
		require.Equal(t, want, s.Latencies.ValueAtPercentile(q))
	}
	require.EqualValues(t, 100, s.Latencies.Min())

	s, err = a.sample(64, true)
	require.NoError(t, err)
	require.Nil(t, s.Latencies)
	require.EqualValues(t, 5*64, s.Bytes)

	_, err = a.sample(65, false)
	require.Error(t, err, "another size")
	for old, bad := range map[string]string{
		`"ops":5`: `"ops":6`, `"ops":5,`: ``, `"busy_ns":1500`: `"busy_ns":0`, `"elapsed_ns":2000`: `"elapsed_ns":1000`,
		`[300,3]`: `[300,-3]`, `[100,1]`: `[-1,1]`, `"counts":[[100,1],`: `"counts":[`,
	} {
		line := strings.Replace(good, old, bad, 1)
		require.NotEqual(t, good, line)
		a, err := parseAnswer([]byte(line))
		require.NoError(t, err)
		_, err = a.sample(64, false)
		require.Error(t, err, line)
	}
	for _, line := range []string{``, `{`, `Picked up options`, `{"ops":"many"}`, `{"error":"no"}`} {
		_, err := parseAnswer([]byte(line))
		require.Error(t, err, line)
	}
}

// Where a tool is missing the subject is left out, and said so.
func TestNoTools(t *testing.T) {
	defer func(old string) { noForeign = old }(noForeign)
	noForeign = ""
	t.Setenv("PATH", t.TempDir())
	plan, err := planRaw(&suite.Options{Sizes: []int{8, 64}})
	require.NoError(t, err)
	defer plan.Close()
	require.Subset(t, plan.Skipped, []string{"aeron: java is not on the PATH", "iceoryx2: cargo is not on the PATH"})
	require.Contains(t, strings.Join(plan.Skipped, "\n"), "messages of 8 B")
	for _, g := range plan.Groups {
		for _, c := range g.Cases {
			require.NotContains(t, []string{aeron.name, iceoryx2.name}, c.Result.Subject)
		}
	}
}

// The sources are unpacked as they are, and those that are there are left alone.
func TestUnpack(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	for _, f := range []string{"iceoryx2/Cargo.toml", "iceoryx2/Cargo.lock", "iceoryx2/src/main.rs", "aeron/pom.xml", "aeron/src/Main.java"} {
		name, rest, _ := strings.Cut(f, "/")
		dir, err := unpack(name)
		require.NoError(t, err)
		path := filepath.Join(dir, filepath.FromSlash(rest))
		want, err := os.ReadFile(filepath.FromSlash(f))
		require.NoError(t, err)
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, want, got)
		past := time.Unix(1_000_000_000, 0)
		require.NoError(t, os.Chtimes(path, past, past))
		_, err = unpack(name)
		require.NoError(t, err)
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.True(t, info.ModTime().Equal(past), "written again")
		require.NoError(t, os.WriteFile(path, []byte("other"), 0o600))
		_, err = unpack(name)
		require.NoError(t, err)
		got, err = os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// The scenario with what is here: Tandem and the ring, and the foreign programs if the
// variable is set.
func TestRaw(t *testing.T) {
	if ring.Supported() != nil {
		t.Skip("needs sealed shared memory")
	}
	path := filepath.Join(t.TempDir(), "report.json")
	var out, errs bytes.Buffer
	require.Zero(t, calm().Main([]string{"-rounds", "2", "-duration", "4ms", "-json", path, "-sizes", "16,64,4Ki,2Mi", "raw"}, &out, &errs), errs.String())
	d, err := report.ReadJSON(path)
	require.NoError(t, err)
	modes := make(map[string]int)
	for _, r := range d.Results {
		modes[r.Subject+" "+r.Mode]++
		require.Equal(t, 2, r.Rounds)
		require.Positive(t, r.OpsPerS, "%+v", r)
	}
	for _, want := range []string{"ring raw echo", "shm call in place", "shm typed call", "shm typed call, buffers", "ring one way", "broadcast one way", "shm notifications in place", "shm typed call from idle"} {
		require.GreaterOrEqual(t, modes[want], 3, want)
	}
	for _, f := range foreignPrograms {
		if noForeign != "" {
			require.Contains(t, out.String(), "not measured: "+f.name+": "+noForeign)
		} else if !regexp.MustCompile("not measured: " + f.name + ": .* " + errNoTool.Error()).MatchString(out.String()) {
			require.GreaterOrEqual(t, modes[f.name+" raw echo"], 3, out.String())
			require.GreaterOrEqual(t, modes[f.name+" one way"], 3)
		}
	}
}
