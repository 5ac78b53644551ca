package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/bench/internal/suitetest"
	"github.com/tandemipc/tandem/ring"
)

// withForeign plans as if all foreign programs were there; nothing starts them.
func withForeign(t *testing.T) {
	if ring.Supported() != nil {
		t.Skip("needs sealed shared memory")
	}
	old, builds := noForeign, make(map[*foreign]func() ([]string, error))
	noForeign = ""
	for _, f := range foreignPrograms {
		builds[f], f.build = f.build, func() ([]string, error) { return []string{"none"}, nil }
	}
	t.Cleanup(func() {
		noForeign = old
		for f, build := range builds {
			f.build = build
		}
	})
}

// figures of results, by name, size and batch. Far, each latency has 900 more, and each other
// figure twice as many.
var figures = map[string]float64{
	"shm server stream 64 0":                     5000,
	"grpc server stream 64 0":                    200,
	"shm conn 64 0":                              200,
	"unix conn 64 0":                             1000,
	"shm net/http 64 0":                          500,
	"unix net/http 64 0":                         2000,
	"shm grpc 64 0":                              900,
	"unix grpc 64 0":                             3000,
	"shm writes 65536 0":                         300,
	"unix writes 65536 0":                        100,
	"ring spin raw echo 64 0":                    150,
	"shm spin call in place 64 0":                300,
	"shm spin typed call 64 0":                   400,
	"aeron spin raw echo 64 0":                   100,
	"shm spin typed call 4096 0":                 1000,
	"aeron spin raw echo, copied out 4096 0":     500,
	"shm spin typed call 65536 0":                6000,
	"iceoryx2 spin raw echo, copied out 65536 0": 5000,
	"shm spin typed call, buffers 64 0":          200,
	"iceoryx2 spin raw echo, loaned 64 0":        100,
	"shm spin typed call, buffers 4096 0":        300,
	"iceoryx2 spin raw echo, loaned 4096 0":      200,
	"shm spin typed call, buffers 1048576 0":     600,
	"iceoryx2 spin raw echo, loaned 1048576 0":   300,
	"shm spin typed call, buffers 4194304 0":     400,
	"iceoryx2 spin raw echo, loaned 4194304 0":   500,
	"ring spin one way 64 1":                     8000,
	"ring spin one way 64 128":                   9000,
	"broadcast spin one way 64 1":                6000,
	"iceoryx2 spin one way 64 0":                 1500,
	"shm spin notifications in place 64 1":       1000,
	"shm spin notifications in place 64 256":     3000,
	"aeron spin one way 64 0":                    2000,
	"shm typed call from idle 64 0":              30000,
	"iceoryx2 sleep event from idle -1 0":        20000,
}

func figure(r report.Result, state measure.State) measure.Sample {
	size := -1
	if r.Bytes != nil {
		size = *r.Bytes
	}
	x, ok := figures[r.Name()+" "+strconv.Itoa(size)+" "+strconv.Itoa(r.Batch)]
	far := state == measure.Far
	switch {
	case !ok: // whoever takes this is wrong
		return suitetest.Sample(1, 7777777)
	case strings.Contains(r.Mode, "one way"), r.Mode == oneWayCall, r.Mode == serverStream, r.Mode == writesName:
		if far {
			x *= 2
		}
		s := suitetest.Sample(int64(x), 1)
		s.Latencies = nil
		return s
	}
	if far {
		x += 900
	}
	s := suitetest.Sample(1000, time.Duration(x))
	s.Host.CPU, s.Worker.CPU = time.Duration(x)*300, time.Duration(x)*100
	if r.Subject == iceoryx2.name {
		s.Worker.CPU *= 6
	}
	return s
}

// Every target is computed from the results that it names, in each state by itself, and those
// are planned, with -quick and without.
func TestTargets(t *testing.T) {
	withForeign(t)
	want := map[string][2]float64{ // near and far
		"stream of 64 B items over gRPC's over a Unix socket, items/s":          {25, 25},
		"64 B there and back on a connection, over the same over a Unix socket": {0.2, 1100. / 1900},
		"net/http, 64 B, over the same over a Unix socket":                      {0.25, 1400. / 2900},
		"gRPC, 64 B, over the same over a Unix socket":                          {0.3, 1800. / 3900},
		"writes of 64 KiB, over the same over a Unix socket, writes/s":          {3, 3},
		"ring echo, 64 B, over Aeron's echo":                                    {1.5, 1050. / 1000},
		"call in place, 64 B, over Aeron's echo":                                {3, 1200. / 1000},
		"Call and Handle, 64 B, over Aeron's echo":                              {4, 1300. / 1000},
		"Call and Handle, 4 KiB, over Aeron's echo, copied out":                 {2, 1900. / 1400},
		"Call and Handle, 64 KiB, over iceoryx2's echo, copied out":             {1.2, 6900. / 5900},
		"Call and Handle with buffers, 64 B, over iceoryx2's echo, loaned":      {2, 1100. / 1000},
		"Call and Handle with buffers, 4 KiB, over iceoryx2's echo, loaned":     {1.5, 1200. / 1100},
		"Call and Handle with buffers, 1 MiB, over iceoryx2's echo, loaned":     {2, 1500. / 1200},
		"Call and Handle with buffers, 4 MiB, over iceoryx2's echo, loaned":     {0.8, 1300. / 1400},
		"ring one way, 64 B, one by one, over Aeron's, messages/s":              {4, 4},
		"ring one way, 64 B, in batches of 128, over Aeron's, messages/s":       {4.5, 4.5},
		"broadcast one way, 64 B, one by one, over iceoryx2's, messages/s":      {4, 4},
		"Notify one way, 64 B, one by one, over Aeron's, messages/s":            {0.5, 0.5},
		"Notify one way, 64 B, by Batch, over Aeron's, messages/s":              {1.5, 1.5},
		"one call per ms from idle over iceoryx2's event":                       {1.5, 30900. / 20900},
		"the same, processor time of both processes":                            {1.5 * 4 / 9, 30900. / 20900 * 4 / 9},
	}
	require.Len(t, targets(), len(want))
	for name, o := range map[string]*suite.Options{
		"full": {Rounds: 1, Duration: time.Second}, "quick": {Quick: true, Rounds: 1, Duration: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			sections := suitetest.Planned(t, program(), o, []measure.State{measure.Near, measure.Far}, figure)
			v := report.Judge(targets(), sections)
			require.True(t, v.All)
			require.Empty(t, v.Missing)
			require.Len(t, v.Judged, 2*len(want))
			for _, target := range v.Judged {
				i := 0
				if target.State == measure.Far {
					i = 1
				}
				require.InEpsilon(t, want[target.What][i], target.Measured, 0.002, "%s, %s", target.What, target.State)
			}
			// Without one of the programs its rows have no samples, and the others do.
			sections = suitetest.Planned(t, program(), o, []measure.State{measure.Near}, func(r report.Result, state measure.State) measure.Sample {
				if r.Subject == iceoryx2.name {
					return measure.Sample{}
				}
				return figure(r, state)
			})
			v = report.Judge(targets(), sections)
			require.Len(t, v.Asked, len(want))
			require.Len(t, v.Judged, len(want)-8)
			for _, target := range v.Judged {
				require.NotContains(t, target.What, "iceoryx2")
			}
		})
	}
}

// With -quick, sizes beyond the first are for targets alone, unless they were asked for.
func TestQuickSizes(t *testing.T) {
	withForeign(t)
	count := func(o *suite.Options) map[int]int {
		plan, err := planRaw(o)
		require.NoError(t, err)
		t.Cleanup(plan.Close)
		n := make(map[int]int)
		for _, g := range plan.Groups {
			for _, c := range g.Cases {
				if c.Result.Bytes != nil {
					n[*c.Result.Bytes]++
				}
			}
		}
		return n
	}
	full, quick := count(&suite.Options{}), count(&suite.Options{Quick: true})
	require.Equal(t, full[64], quick[64])
	require.Equal(t, 4, quick[4<<10])
	require.Equal(t, 2, quick[64<<10])
	for _, n := range []map[int]int{full, quick} {
		require.Equal(t, 2, n[1<<20], "beyond 64 KiB for targets alone")
		require.Equal(t, 2, n[4<<20])
	}
	require.Equal(t, full[4<<10], count(&suite.Options{Quick: true, Sizes: []int{64, 4 << 10}})[4<<10])
}

// A document gets the table also where no foreign program is there: without figures of them,
// and with the reason.
func TestDocumentWithoutForeign(t *testing.T) {
	if ring.Supported() != nil {
		t.Skip("needs sealed shared memory")
	}
	defer func(old string) { noForeign = old }(noForeign)
	noForeign = "there is no compiler"
	path := filepath.Join(t.TempDir(), "doc.md")
	const begin = "<!-- figures: peers targets -->\n"
	require.NoError(t, os.WriteFile(path, []byte(begin+"old\n<!-- end of figures -->\n"), 0o600))
	var out, errs bytes.Buffer
	require.Zero(t, calm().Main([]string{"-rounds", "1", "-duration", "2ms", "-sizes", "64", "-doc", path, "streams", "connections", "raw"}, &out, &errs), errs.String())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text), begin)
	require.NotContains(t, string(text), "old")
	for _, target := range targets() {
		require.Contains(t, string(text), "| "+target.What+" |")
	}
	require.Equal(t, len(targets())-5, strings.Count(string(text), "| no samples |  |"), "all but those over a Unix socket")
	for _, f := range foreignPrograms {
		require.Contains(t, string(text), "- raw: "+f.name+": there is no compiler")
		require.Contains(t, out.String(), "not measured: raw: "+f.name+": there is no compiler")
	}
}
