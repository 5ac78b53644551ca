package main

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/bench/internal/suitetest"
)

var bothStates = []measure.State{measure.Near, measure.Far}

// Every target is of results that the scenarios plan to measure, in each state, with -quick
// and without; what is not says why.
func TestTargetsAreMeasured(t *testing.T) {
	needsLinux(t)
	for _, quick := range []bool{false, true} {
		t.Run(fmt.Sprintf("quick=%v", quick), func(t *testing.T) {
			o := &suite.Options{Quick: quick, Rounds: 1, Duration: time.Second}
			sections := suitetest.Planned(t, program(), o, bothStates, func(report.Result, measure.State) measure.Sample {
				return suitetest.Sample(100, 100)
			})
			v := report.Judge(targets(), sections)
			require.True(t, v.All)
			require.Len(t, v.Asked, len(targets()))
			measured := make(map[string]int)
			for _, target := range v.Judged {
				require.False(t, math.IsNaN(target.Measured), target.What)
				measured[target.What]++
			}
			for _, target := range targets() {
				if strings.Contains(target.What, "idle workers") && measured[target.What] == 0 {
					// They need memory, and more time than -quick has.
					require.Contains(t, strings.Join(v.Missing, "\n"), "idle: 1000 workers")
					continue
				}
				require.Equal(t, len(bothStates), measured[target.What], "nothing that is measured shows: %s", target.What)
			}
		})
	}
}

// Every question is answered by results that the scenarios plan to measure.
func TestQuestionsAreAnswered(t *testing.T) {
	needsLinux(t)
	for _, quick := range []bool{false, true} {
		o := &suite.Options{Quick: quick, Rounds: 1, Duration: time.Second}
		sections := suitetest.Planned(t, program(), o, bothStates, func(report.Result, measure.State) measure.Sample {
			s := suitetest.Sample(100, 100)
			s.Host.CPU = time.Second
			return s
		})
		var loads, answered []string
		for _, q := range questions() {
			loads = append(loads, q.Load)
		}
		for _, a := range report.Answers(questions(), sections) {
			answered = append(answered, a.Load)
		}
		require.Equal(t, loads, answered, "quick=%v", quick)
	}
}

// Targets are of the results that they name, and of those of one state.
func TestTargetsFigures(t *testing.T) {
	needsLinux(t)
	const latency, callers, mallocs, memory, processor = "latency", "callers", "mallocs", "memory", "processor"
	const uneven, ofService = "uneven", "of the service"
	for _, test := range []struct {
		what string
		// figures are what that of a result is, by its name, size, number of callers, and batch if
		// it has one.
		of        string
		figures   map[string]float64
		near, far float64 // far, each latency has 900 more, and each other figure twice as many
	}{
		{"the same over raw Call and Handle", latency, map[string]float64{"path shm fixed 64 0": 300, "path shm raw 64 0": 100}, 3, 1.2},
		{"hot Fixed call, 64 B, over raw call in place", latency, map[string]float64{"path shm fixed 64 0": 300, "path shm in place raw 64 0": 100}, 3, 1.2},
		{"the same by Call and Handle", latency, map[string]float64{"path shm raw 64 0": 600, "path ring  64 0": 100}, 6, 1.5},
		{"CBOR of 389 B, encoded and decoded by both sides", latency, map[string]float64{"path codec cbor 389 0": 1500}, 1500, 2400},
		{"1 MiB by Call and Handle over two copies there and two back", latency, map[string]float64{"large shm raw 1048576 1": 600, "large memcpy there and back raw 1048576 1": 100}, 6, 1.5},
		{"echo of a buffer, 1 MiB over 64 B", latency, map[string]float64{"buffers shm buffer raw 1048576 1": 600, "buffers shm buffer raw 64 1": 100}, 6, 1.5},
		{"echo of a buffer of 64 B over a call in place with 64 B", latency, map[string]float64{"buffers shm buffer raw 64 1": 300, "buffers shm in place raw 64 1": 100}, 3, 1.2},
		{"buffer of 1 MiB, filled and read, of memcpy's bandwidth", callers, map[string]float64{"buffers shm buffer filled raw 1048576 1": 1000, "buffers memcpy raw 1048576 1": 4000}, 0.25, 0.25},
		{"the same, with two buffers in flight", callers, map[string]float64{"buffers shm buffers filled, two in flight raw 1048576 1": 2000, "buffers memcpy raw 1048576 1": 4000}, 0.5, 0.5},
		{"buffer of 64 MiB, filled and read, of memcpy's bandwidth", callers, map[string]float64{"buffers shm buffer filled raw 67108864 1": 3000, "buffers memcpy raw 67108864 1": 4000}, 0.75, 0.75},
		{"Alloc and Release of a buffer of 1 MiB", latency, map[string]float64{"buffers arena Alloc and Release  1048576 0": 80}, 80, 980},
		{"64 callers over one caller, shm, calls/s", callers, map[string]float64{"concurrent shm in place raw 64 64": 3000, "concurrent shm in place raw 64 1": 1000}, 3, 3},
		{"shm over socket, 64 callers, calls/s", callers, map[string]float64{"concurrent shm in place raw 64 64": 6000, "concurrent socket in place raw 64 64": 1000}, 6, 6},
		{"stream of Fixed items, 64 B, over bare ring batches, items/s", callers, map[string]float64{"streams shm server stream fixed 64 1": 3000, "streams ring  64 0 128": 6000}, 0.5, 0.5},
		{"the same, shm over socket", callers, map[string]float64{"streams shm server stream fixed 64 1": 6000, "streams socket server stream fixed 64 1": 1000}, 6, 6},
		{"stream of CBOR items of ten fields over decoding them alone", latency, map[string]float64{fmt.Sprintf("streams shm server stream cbor %d 1", len(encodedRecord())): 300, fmt.Sprintf("streams codec decodes cbor %d 0", len(encodedRecord())): 100}, 3, 1.2},
		{"stream of 64 KiB items, of memcpy's bandwidth", callers, map[string]float64{"streams shm server stream raw 65536 1": 1000, "streams memcpy raw 65536 0": 4000}, 0.25, 0.25},
		{"first item of a stream, from its opening, over a call", latency, map[string]float64{"streams shm first item raw 64 0": 600, "streams shm call raw 64 0": 100}, 6, 1.5},
		{"p99 of calls beside a stream on the link, over beside one of another link", latency, map[string]float64{"streams shm calls beside a stream raw 64 0": 600, "streams shm calls beside one of another link raw 64 0": 100}, 6, 1.5},
		{"a stream of 1,000,000 items of 100 B: memory of both processes", memory, map[string]float64{"streams shm 1,000,000 items raw 100 1": 30}, 30, 60},
		{"10,000 idle streams: memory of both processes", memory, map[string]float64{"streams shm idle streams  -1 10000": 7}, 7, 14},
		{"10,000 idle streams: processor time of both processes in 10 s", processor, map[string]float64{"streams shm idle streams  -1 10000": 5}, 0.05, 0.1},
		{"dialled call in place, 64 B, over a worker's, shm", latency, map[string]float64{"services shm in place raw 64 1": 300, "services shm worker in place raw 64 1": 100}, 3, 1.2},
		{"dialled call by Call and Handle, 64 B, over a worker's, shm", latency, map[string]float64{"services shm raw 64 1": 300, "services shm worker raw 64 1": 100}, 3, 1.2},
		{"dialled call in place, 64 B, over a worker's, socket", latency, map[string]float64{"services socket in place raw 64 1": 300, "services socket worker in place raw 64 1": 100}, 3, 1.2},
		{"64 clients of a service over one, shm, calls/s", callers, map[string]float64{"services shm in place raw 64 64": 3000, "services shm in place raw 64 1": 1000}, 3, 3},
		{"64 clients of a service over one, socket, calls/s", callers, map[string]float64{"services socket in place raw 64 64": 3000, "services socket in place raw 64 1": 1000}, 3, 3},
		{"p99 of the worst of 64 clients over the median client's, shm", uneven, map[string]float64{"services shm in place, from 4 processes raw 64 64": 2}, 2, 4},
		{"the same over socket", uneven, map[string]float64{"services socket in place, from 4 processes raw 64 64": 2}, 2, 4},
		{"1000 idle clients: private memory of the service for them, shm", ofService, map[string]float64{"services shm idle clients  -1 1000": 25}, 25, 50},
		{"the same, socket", ofService, map[string]float64{"services socket idle clients  -1 1000": 25}, 25, 50},
		{"1000 idle clients: memory files of their rings", ofService, map[string]float64{"services shm idle clients  -1 1000": 25}, 25, 50},
		{"1000 idle clients: threads of the service", ofService, map[string]float64{"services shm idle clients  -1 1000": 25}, 25, 50},
		{"1000 idle clients: processor time of the service in 10 s", ofService, map[string]float64{"services shm idle clients  -1 1000": 5}, 0.05, 0.1},
		{"1000 idle clients: context switches of the service in 10 s", ofService, map[string]float64{"services shm idle clients  -1 1000": 5}, 50, 100},
		{"from Dial to the first answer, shm", latency, map[string]float64{"services shm dial to first answer  -1 0": 100}, 100, 1000},
		{"longest time without an answer while a service is taken over, shm", latency, map[string]float64{"services shm gap of a take-over  -1 0": 100}, 100, 1000},
		{"broadcast, 64 B, one reader, records/s over the bare ring's", callers, map[string]float64{"topics broadcast  64 1 1": 3000, "topics ring  64 1 1": 6000}, 0.5, 0.5},
		{"the same, in batches of 32", callers, map[string]float64{"topics broadcast  64 1 32": 3000, "topics ring  64 1 32": 6000}, 0.5, 0.5},
		{"publish with 64 parked readers over none", latency, map[string]float64{"topics broadcast park publish  64 64": 600, "topics broadcast park publish  64 0": 100}, 6, 1.5},
		{"allocations of CallInto and Handle of a CBOR struct without pointers, both sides", mallocs, map[string]float64{"path shm cbor " + fmt.Sprint(len(encodedTick())) + " 0": 7}, 7, 14},
		{"allocations of a Fixed call, both sides", mallocs, map[string]float64{"path shm fixed 64 0": 7}, 7, 14},
	} {
		t.Run(test.what, func(t *testing.T) {
			used := make(map[string]bool)
			o := &suite.Options{Rounds: 1, Duration: time.Second}
			sections := suitetest.Planned(t, program(), o, bothStates, func(r report.Result, state measure.State) measure.Sample {
				size := -1
				if r.Bytes != nil {
					size = *r.Bytes
				}
				key := strings.TrimSpace(fmt.Sprint(r.Scenario, " ", r.Name(), " ", r.Codec, " ", size, " ", r.Callers))
				if r.Batch > 0 {
					key += fmt.Sprint(" ", r.Batch)
				}
				x, ok := test.figures[key]
				if !ok {
					return suitetest.Sample(1, 7777777) // whoever takes this is wrong
				}
				used[key] = true
				switch far := state == measure.Far; {
				case test.of == latency && far:
					return suitetest.Sample(100, time.Duration(x+900))
				case test.of == latency:
					return suitetest.Sample(100, time.Duration(x))
				case far:
					x *= 2
				}
				if test.of == callers {
					s := suitetest.Sample(int64(x), 1000)
					if r.Callers == 1 && (r.Scenario == "concurrent" || r.Scenario == servicesName) {
						s.Busy = s.Elapsed / 4 // which leaves out preparing and checking
					}
					return s
				}
				s := suitetest.Sample(100, 1000)
				switch test.of {
				case uneven:
					s.Worst = x
					return s
				case ofService:
					s.Private, s.Files = int64(x)*1_000_000, int64(x)*1_000_000
					s.Worker = measure.Usage{CPU: time.Duration(x) * time.Millisecond, Switches: int64(x), Threads: int(x)}
					return s
				}
				s.Host.RSS, s.Worker.RSS = int64(x)*400_000, int64(x)*600_000
				s.Host.CPU, s.Worker.CPU = time.Duration(x)*400*time.Microsecond, time.Duration(x)*600*time.Microsecond
				s.Host.Mallocs, s.Worker.Mallocs = uint64(x)*40, uint64(x)*60
				return s
			})
			require.Len(t, used, len(test.figures), "results of these names are planned")
			for state, want := range map[measure.State]float64{measure.Near: test.near, measure.Far: test.far} {
				require.InEpsilon(t, want, measuredOf(t, sections, test.what, state), 0.001, state)
			}
		})
	}
}

// measuredOf is what the target of this name was found to be in a state.
func measuredOf(t *testing.T, sections []report.Section, what string, state measure.State) float64 {
	t.Helper()
	for _, target := range report.Judge(targets(), sections).Judged {
		if target.What == what && target.State == state {
			return target.Measured
		}
	}
	t.Fatalf("%s: not judged when %s", what, state)
	return 0
}
