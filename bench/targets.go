package main

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/rings"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
)

// idleWorkers are how many the targets of scenario idle are for.
const idleWorkers = 1000

// targets are what the library has to reach.
func targets() []report.Target {
	path := func(subject, mode, codec string, size int) report.Result {
		return result("path", subject, mode, codec, report.Result{Bytes: new(size)})
	}
	encoded := encodedOrder()
	line := result("path", oneLine, "", "", report.Result{})
	ring8, ring64 := path(rings.Copy, "", "", 8), path(rings.Copy, "", "", 64)
	placed, called := path(shm.Name, inPlace, "raw", 64), path(shm.Name, "", "raw", 64)
	fixed := path(shm.Name, "", "fixed", tickSize)
	socket := path("socket", inPlace, "raw", 64)
	cbor := path(shm.Name, "", "cbor", len(encoded))
	rawOfSize := path(shm.Name, "", "raw", len(encoded))
	recoded := path(codecAlone, "", "cbor", len(encoded))
	call := result("call", shm.Name, inPlace, "raw", report.Result{Bytes: new(64), Callers: 1})
	many := func(subject string) report.Result {
		return result("concurrent", subject, inPlace, "raw", report.Result{Bytes: new(64), Callers: 64})
	}
	fromIdle := func(subject string) report.Result {
		return result("rate", subject, "", "raw", report.Result{Bytes: new(64), Rate: 1000, Callers: 1})
	}
	oneWay := func(subject string, batch int) report.Result {
		return result("stream", subject, inPlace, "raw", report.Result{Bytes: new(64), Callers: 1, Batch: batch})
	}
	megabyte := func(subject string) report.Result {
		return result("large", subject, inPlace, "raw", report.Result{Bytes: new(1 << 20), Callers: 1})
	}
	ringBatch := result("ring", rings.Copy, "", "", report.Result{Bytes: new(64), Batch: 128})
	stalled := result("interference", shm.Name, besideBusy, "raw", report.Result{Bytes: new(64), Callers: 1})
	computes := result("interference", shm.Name, "", "raw", report.Result{Bytes: new(64), Rate: fewCalls})
	computesAlone := result("interference", alone, "", "", report.Result{})
	idle := result("idle", shm.Name, "", "", report.Result{Callers: idleWorkers})

	return []report.Target{
		{What: "bare ring round trip, 8 B, over one cache line's", Unit: "x", Bar: 1.5, Aim: 1.1, Figure: over(cost, ring8, line)},
		{What: "hot raw call in place, 64 B, over bare ring round trip", Unit: "x", Bar: 2, Aim: 1.4, Figure: over(cost, placed, ring64)},
		{What: "the same by Call and Handle", Unit: "x", Bar: 2, Aim: 1.4, Figure: over(cost, called, ring64)},
		{What: "hot Fixed call, 64 B, over raw call in place", Unit: "x", Bar: 1.2, Aim: 1.05, Figure: over(cost, fixed, placed)},
		{What: "hot CBOR call over raw call and the codec's own cost", Unit: "x", Bar: 1.3, Aim: 1.1, Figure: over(cost, cbor, rawOfSize, recoded)},
		{What: "socket over shm, hot raw call, 64 B, p50", Unit: "x", Bar: 40, Aim: 80, AtLeast: true, Figure: over(cost, socket, placed)},
		{What: "shm over socket, 64 callers, calls/s", Unit: "x", Bar: 5, Aim: 20, AtLeast: true, Figure: over(speed, many(shm.Name), many("socket"))},
		{What: "shm over socket, one call per millisecond from idle, p50", Unit: "x", Bar: 1, Aim: 0.6, Figure: over(cost, fromIdle(shm.Name), fromIdle("socket"))},
		{What: "shm batch over socket, one way, 64 B", Unit: "x", Bar: 30, Aim: 100, AtLeast: true, Figure: over(speed, oneWay(shm.Name, notifyBatch), oneWay("socket", 1))},
		{What: "ring, one way, 64 B, batches of 128", Unit: "/s", Bar: 30e6, Aim: 60e6, AtLeast: true, Figure: of(ringBatch, speed)},
		{What: "1 MiB echo, shm over socket, bytes/s", Unit: "x", Bar: 3, Aim: 6, AtLeast: true, Figure: over(speed, megabyte(shm.Name), megabyte("socket"))},
		{What: "p99.9 over p50 of a hot raw call, 64 B", Unit: "x", Bar: 10, Aim: 3, Figure: of(call, func(s measure.Sample) float64 { return s.P999() / s.P50() })},
		{What: "p99 of calls while another handler on the link computes", Unit: "ns", Bar: 5e6, Aim: 0.5e6, Figure: of(stalled, measure.Sample.P99)},
		{What: "1000 idle workers: threads of the host", Bar: 40, Aim: 16, Figure: of(idle, func(s measure.Sample) float64 { return float64(s.Host.Threads) })},
		{What: "1000 idle workers: processor time of the host in 10 s", Unit: "s", Bar: 0.05, Aim: 0.01, Figure: of(idle, func(s measure.Sample) float64 { return in10s(s, s.Host.CPU.Seconds()) })},
		{What: "1000 idle workers: context switches of the host in 10 s", Bar: 100, Aim: 10, Figure: of(idle, func(s measure.Sample) float64 { return in10s(s, float64(s.Host.Switches)) })},
		{What: "Go's own work beside 8 calls/s, over the same alone", Unit: "x", Bar: 0.95, Aim: 0.99, AtLeast: true, Figure: over(speed, computes, computesAlone)},
		{What: "allocations of a raw call in place, both sides", Figure: of(placed, allocations)},
		{What: "allocations of a Fixed call, both sides", Figure: of(fixed, allocations)},
	}
}

// encodedOrder returns an order in CBOR.
func encodedOrder() []byte {
	encoded, err := ipc.CBOR.Append(nil, newOrder())
	if err != nil {
		panic(fmt.Sprintf("bench: encode an order: %v", err)) // it is a constant
	}
	return encoded
}

// result completes what identifies a result.
func result(scenario, subject, mode, codec string, r report.Result) report.Result {
	r.Scenario, r.Subject, r.Mode, r.Codec = scenario, subject, mode, codec
	if subject == shm.Name || subject == rings.Copy {
		r.Wait = adaptive
	}
	return r
}

func cost(s measure.Sample) float64  { return s.Cost() }
func speed(s measure.Sample) float64 { return s.OpsPerSecond() }

// allocations of an operation, rounded to what is not the benchmark's own.
func allocations(s measure.Sample) float64 {
	return math.Round(100*float64(s.Host.Mallocs+s.Worker.Mallocs)/float64(s.Ops)) / 100
}

func in10s(s measure.Sample, x float64) float64 {
	return x * (10 * time.Second).Seconds() / s.Elapsed.Seconds()
}

// of is a figure of one result.
func of(id report.Result, f func(measure.Sample) float64) func(report.Find) measure.Spread {
	return func(find report.Find) measure.Spread {
		return measure.SpreadOf(measure.Each(slices.DeleteFunc(slices.Clone(find(id)), measure.Sample.Empty), f))
	}
}

// over is a figure of one result over that of another, or over the sum of those of
// several.
func over(f func(measure.Sample) float64, id report.Result, bases ...report.Result) func(report.Find) measure.Spread {
	return func(find report.Find) measure.Spread {
		var sum []float64
		for i, base := range bases {
			figures := measure.Each(find(base), f)
			if i == 0 {
				sum = figures
				continue
			}
			sum = sum[:min(len(sum), len(figures))]
			for j := range sum {
				if sum[j] == 0 || figures[j] == 0 {
					sum[j] = 0 // a round that one of them lacks
				} else {
					sum[j] += figures[j]
				}
			}
		}
		return measure.Ratios(measure.Each(find(id), f), sum)
	}
}
