package main

import (
	"fmt"
	"math"
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
	encodedTick := path(shm.Name, "", "cbor", len(encodedTick()))
	many := func(subject string, callers int) report.Result {
		return result("concurrent", subject, inPlace, "raw", report.Result{Bytes: new(64), Callers: callers})
	}
	fromIdle := func(subject string) report.Result {
		return result("rate", subject, "", "raw", report.Result{Bytes: new(64), Rate: 1000, Callers: 1})
	}
	oneWay := func(subject string, batch int) report.Result {
		return result("stream", subject, inPlace, "raw", report.Result{Bytes: new(64), Callers: 1, Batch: batch})
	}
	megabyte := func(subject, mode string) report.Result {
		return result("large", subject, mode, "raw", report.Result{Bytes: new(1 << 20), Callers: 1})
	}
	buffer := func(mode string, size int) report.Result {
		return result(buffersName, shm.Name, mode, "raw", report.Result{Bytes: new(size), Callers: 1})
	}
	copiedAsBuffer := func(size int) report.Result {
		return result(buffersName, memcpy, "", "raw", report.Result{Bytes: new(size), Callers: 1})
	}
	made := result(buffersName, arenaAlone, allocRelease, "", report.Result{Bytes: new(1 << 20)})
	ringBatch := result("ring", rings.Copy, "", "", report.Result{Bytes: new(64), Batch: 128})
	stalled := result("interference", shm.Name, besideBusy, "raw", report.Result{Bytes: new(64), Callers: 1})
	computes := result("interference", shm.Name, "", "raw", report.Result{Bytes: new(64), Rate: fewCalls})
	computesAlone := result("interference", alone, "", "", report.Result{})
	idle := result("idle", shm.Name, "", "", report.Result{Callers: idleWorkers})
	stream := func(subject, mode, codec string, size int) report.Result {
		return result(streamsName, subject, mode, codec, report.Result{Bytes: new(size), Callers: 1})
	}
	aside := func(mode string) report.Result {
		return result(streamsName, shm.Name, mode, "raw", report.Result{Bytes: new(64)})
	}
	ticks, besideRing := stream(shm.Name, serverStream, "fixed", tickSize), result(streamsName, rings.Copy, "", "", report.Result{Bytes: new(tickSize), Batch: besideBatch})
	record := len(encodedRecord())
	decoding := result(streamsName, codecAlone, decodes, "cbor", report.Result{Bytes: new(record)})
	bulk, copied := stream(shm.Name, serverStream, "raw", bulkItem), result(streamsName, memcpy, "", "raw", report.Result{Bytes: new(bulkItem)})
	idleStream := result(streamsName, shm.Name, idleStreamed, "", report.Result{Callers: manyStreams})
	services := func(subject, mode string, clients int) report.Result {
		r := report.Result{Callers: clients}
		codec := ""
		if clients == 1 || clients == manyClients {
			codec, r.Bytes = "raw", new(64)
		}
		return result(servicesName, subject, mode, codec, r)
	}
	idleClients := services(shm.Name, idleDialled, idleClientCount)
	idleSocketClients := services("socket", idleDialled, idleClientCount)

	toReaders := func(subject string, readers, batch int) report.Result {
		return topicResult(subject, "", adaptive, readers, batch)
	}
	toParked := func(subject, wait string, readers int) report.Result {
		return topicResult(subject, publishing, wait, readers, 0)
	}

	piped := func(subject, mode string, size int) report.Result {
		return result(pipelineName, subject, mode, "raw", report.Result{Bytes: new(size)})
	}
	stage, loop := piped(shm.Name, "", pipelineRecord), piped(alone, "", pipelineRecord)

	return []report.Target{
		{What: "bare ring round trip, 8 B, over one cache line's", Unit: "x", Bar: 1.5, Aim: 1.1, Figure: report.Over(measure.Sample.Cost, ring8, line)},
		{What: "hot raw call in place, 64 B, over bare ring round trip", Unit: "x", Bar: 2, Aim: 1.4, Figure: report.Over(measure.Sample.Cost, placed, ring64)},
		{What: "the same by Call and Handle", Unit: "x", Bar: 2, Aim: 1.4, Figure: report.Over(measure.Sample.Cost, called, ring64)},
		{What: "hot Fixed call, 64 B, over raw call in place", Unit: "x", Bar: 1.2, Aim: 1.05, Figure: report.Over(measure.Sample.Cost, fixed, placed)},
		{What: "the same over raw Call and Handle", Unit: "x", Bar: 1.1, Aim: 1, Figure: report.Over(measure.Sample.Cost, fixed, called)},
		{What: "hot CBOR call over raw call and the codec's own cost", Unit: "x", Bar: 1.3, Aim: 1.1, Figure: report.Over(measure.Sample.Cost, cbor, rawOfSize, recoded)},
		{What: "CBOR of 389 B, encoded and decoded by both sides", Unit: "ns", Bar: 2200, Aim: 1000, Figure: report.Of(recoded, measure.Sample.Cost)},
		{What: "socket over shm, hot raw call, 64 B, p50", Unit: "x", Bar: 40, Aim: 80, AtLeast: true, Figure: report.Over(measure.Sample.Cost, socket, placed)},
		{What: "64 callers over one caller, shm, calls/s", Unit: "x", Bar: 1.3, Aim: 2, AtLeast: true, Figure: report.Over(overall, many(shm.Name, 64), many(shm.Name, 1))},
		{What: "shm over socket, 64 callers, calls/s", Unit: "x", Bar: 5, Aim: 8, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, many(shm.Name, 64), many("socket", 64))},
		{What: "shm over socket, one call per millisecond from idle, p50", Unit: "x", Bar: 1, Aim: 0.6, Figure: report.Over(measure.Sample.Cost, fromIdle(shm.Name), fromIdle("socket"))},
		{What: "shm batch over socket, one way, 64 B", Unit: "x", Bar: 30, Aim: 100, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, oneWay(shm.Name, notifyBatch), oneWay("socket", 1))},
		{What: "ring, one way, 64 B, batches of 128", Unit: "/s", Bar: 30e6, Aim: 60e6, AtLeast: true, Figure: report.Of(ringBatch, measure.Sample.OpsPerSecond)},
		{What: "1 MiB echo, shm over socket, bytes/s", Unit: "x", Bar: 3, Aim: 6, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, megabyte(shm.Name, inPlace), megabyte("socket", inPlace))},
		{What: "1 MiB by Call and Handle over two copies there and two back", Unit: "x", Bar: 1.3, Aim: 1.1, Figure: report.Over(measure.Sample.Cost, megabyte(shm.Name, ""), megabyte(memcpy, thereAndBack))},
		{What: "echo of a buffer, 1 MiB over 64 B", Unit: "x", Bar: 1.3, Aim: 1.05, Figure: report.Over(measure.Sample.Cost, buffer(bufferEcho, 1<<20), buffer(bufferEcho, 64))},
		{What: "echo of a buffer of 64 B over a call in place with 64 B", Unit: "x", Bar: 2, Aim: 1.3, Figure: report.Over(measure.Sample.Cost, buffer(bufferEcho, 64), buffer(inPlace, 64))},
		{What: "buffer of 1 MiB, filled and read, of memcpy's bandwidth", Unit: "x", Bar: 0.8, Aim: 0.95, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, buffer(bufferFilled, 1<<20), copiedAsBuffer(1<<20))},
		{What: "the same, with two buffers in flight", Unit: "x", Bar: 0.8, Aim: 0.95, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, buffer(buffersPass, 1<<20), copiedAsBuffer(1<<20))},
		{What: "buffer of 64 MiB, filled and read, of memcpy's bandwidth", Unit: "x", Bar: 0.8, Aim: 0.95, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, buffer(bufferFilled, 64<<20), copiedAsBuffer(64<<20))},
		{What: "Alloc and Release of a buffer of 1 MiB", Unit: "ns", Bar: 150, Aim: 50, Figure: report.Of(made, measure.Sample.Cost)},
		{What: "p99.9 over p50 of a hot raw call, 64 B", Unit: "x", Bar: 10, Aim: 3, Figure: report.Of(call, func(s measure.Sample) float64 { return s.P999() / s.P50() })},
		{What: "p99 of calls while another handler on the link computes", Unit: "ns", Bar: 5e6, Aim: 0.5e6, Figure: report.Of(stalled, measure.Sample.P99)},
		{What: "1000 idle workers: threads of the host", Bar: 40, Aim: 16, Figure: report.Of(idle, func(s measure.Sample) float64 { return float64(s.Host.Threads) })},
		{What: "1000 idle workers: processor time of the host in 10 s", Unit: "s", Bar: 0.05, Aim: 0.01, Figure: report.Of(idle, func(s measure.Sample) float64 { return in10s(s, s.Host.CPU.Seconds()) })},
		{What: "1000 idle workers: context switches of the host in 10 s", Bar: 100, Aim: 10, Figure: report.Of(idle, func(s measure.Sample) float64 { return in10s(s, float64(s.Host.Switches)) })},
		{What: "Go's own work beside 8 calls/s, over the same alone", Unit: "x", Bar: 0.95, Aim: 0.99, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, computes, computesAlone)},
		{What: "stream of Fixed items, 64 B, over bare ring batches, items/s", Unit: "x", Bar: 0.25, Aim: 0.6, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, ticks, besideRing)},
		{What: "the same, shm over socket", Unit: "x", Bar: 8, Aim: 20, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, ticks, stream("socket", serverStream, "fixed", tickSize))},
		{What: "stream of CBOR items of ten fields over decoding them alone", Unit: "x", Bar: 1.3, Aim: 1.1, Figure: report.Over(measure.Sample.Cost, stream(shm.Name, serverStream, "cbor", record), decoding)},
		{What: "stream of 64 KiB items, of memcpy's bandwidth", Unit: "x", Bar: 0.5, Aim: 0.8, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, bulk, copied)},
		{What: "first item of a stream, from its opening, over a call", Unit: "x", Bar: 2, Aim: 1.2, Figure: report.Over(measure.Sample.Cost, aside(firstItem), aside(plainCall))},
		{What: "p99 of calls beside a stream on the link, over beside one of another link", Unit: "x", Bar: 3, Aim: 1.2, Figure: report.Over(measure.Sample.P99, aside(besideStream), aside(besideOther))},
		{What: "a stream of 1,000,000 items of 100 B: memory of both processes", Unit: "MB", Bar: 40, Aim: 25, Figure: report.Of(stream(shm.Name, millionItems, "raw", manySize), megabytes)},
		{What: "10,000 idle streams: memory of both processes", Unit: "MB", Bar: 20, Aim: 5, Figure: report.Of(idleStream, megabytes)},
		{What: "10,000 idle streams: processor time of both processes in 10 s", Unit: "s", Bar: 0.05, Aim: 0.01, Figure: report.Of(idleStream, func(s measure.Sample) float64 { return in10s(s, (s.Host.CPU + s.Worker.CPU).Seconds()) })},
		{What: "records of 100 B through a stage, over a loop in one process, records/s", Unit: "x", Bar: 0.2, Aim: 0.5, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, stage, loop)},
		{What: "the same over a pipeline in one process, records/s", Unit: "x", Bar: 0.2, Aim: 0.5, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, stage, piped(alone, applied, pipelineRecord))},
		{What: "the same over os/exec, a line at a time, records/s", Unit: "x", Bar: 2, Aim: 5, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, stage, piped(osExec, linesByOne, pipelineRecord))},
		{What: "records of 10 µs in two workers, over one process, records/s", Unit: "x", Bar: 1.7, Aim: 1.9, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, piped(shm.Name, grinding, pipelineRecord), piped(alone, grinding, pipelineRecord))},
		{What: "2 GB through a stage: memory of both processes beyond their start", Unit: "MB", Bar: 67, Aim: 33.5, Figure: report.Of(piped(shm.Name, manyBytes, manyRecord), megabytes)},
		{What: "dialled call in place, 64 B, over a worker's, shm", Unit: "x", Bar: 1.05, Aim: 1, Figure: report.Over(measure.Sample.Cost, services(shm.Name, inPlace, 1), services(shm.Name, ofWorkerPlaced, 1))},
		{What: "dialled call by Call and Handle, 64 B, over a worker's, shm", Unit: "x", Bar: 1.05, Aim: 1, Figure: report.Over(measure.Sample.Cost, services(shm.Name, "", 1), services(shm.Name, ofWorker, 1))},
		{What: "dialled call in place, 64 B, over a worker's, socket", Unit: "x", Bar: 1.05, Aim: 1, Figure: report.Over(measure.Sample.Cost, services("socket", inPlace, 1), services("socket", ofWorkerPlaced, 1))},
		{What: "64 clients of a service over one, shm, calls/s", Unit: "x", Bar: 1.5, Aim: 2, AtLeast: true, Figure: report.Over(overall, services(shm.Name, inPlace, manyClients), services(shm.Name, inPlace, 1))},
		{What: "64 clients of a service over one, socket, calls/s", Unit: "x", Bar: 1.5, Aim: 2, AtLeast: true, Figure: report.Over(overall, services("socket", inPlace, manyClients), services("socket", inPlace, 1))},
		{What: "p99 of the worst of 64 clients over the median client's, shm", Unit: "x", Bar: 3, Aim: 1.5, Figure: report.Of(services(shm.Name, fromProcesses, manyClients), worst)},
		{What: "the same over socket", Unit: "x", Bar: 3, Aim: 1.5, Figure: report.Of(services("socket", fromProcesses, manyClients), worst)},
		{What: "1000 idle clients: threads of the service", Bar: 40, Aim: 16, Figure: report.Of(idleClients, func(s measure.Sample) float64 { return float64(s.Worker.Threads) })},
		{What: "1000 idle clients: processor time of the service in 10 s", Unit: "s", Bar: 0.05, Aim: 0.01, Figure: report.Of(idleClients, func(s measure.Sample) float64 { return in10s(s, s.Worker.CPU.Seconds()) })},
		{What: "1000 idle clients: context switches of the service in 10 s", Bar: 100, Aim: 10, Figure: report.Of(idleClients, func(s measure.Sample) float64 { return in10s(s, float64(s.Worker.Switches)) })},
		{What: "1000 idle clients: private memory of the service for them, shm", Unit: "MB", Bar: 40, Aim: 20, Figure: report.Of(idleClients, private)},
		{What: "the same, socket", Unit: "MB", Bar: 40, Aim: 20, Figure: report.Of(idleSocketClients, private)},
		{What: "1000 idle clients: memory files of their rings", Unit: "MB", Bar: 150, Aim: 140, Figure: report.Of(idleClients, func(s measure.Sample) float64 { return float64(s.Files) / 1e6 })},
		{What: "from Dial to the first answer, shm", Unit: "ns", Bar: 1e6, Aim: 0.3e6, Figure: report.Of(services(shm.Name, dialled, 0), measure.Sample.P50)},
		{What: "longest time without an answer while a service is taken over, shm", Unit: "ns", Bar: 10e6, Aim: 1e6, Figure: report.Of(services(shm.Name, takenOver, 0), measure.Sample.P50)},
		{What: "broadcast, 64 B, one reader, records/s over the bare ring's", Unit: "x", Bar: 0.5, Aim: 0.9, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, toReaders(rings.Broadcast, 1, 1), toReaders(rings.Copy, 1, 1))},
		{What: "the same, in batches of 32", Unit: "x", Bar: 0.5, Aim: 0.9, AtLeast: true, Figure: report.Over(measure.Sample.OpsPerSecond, toReaders(rings.Broadcast, 1, 32), toReaders(rings.Copy, 1, 32))},
		{What: "publish with 64 parked readers over none", Unit: "x", Bar: 20, Aim: 5, Figure: report.Over(measure.Sample.Cost, toParked(rings.Broadcast, "park", 64), toParked(rings.Broadcast, "park", 0))},
		{What: "allocations of a raw call in place, both sides", Figure: report.Of(placed, allocations)},
		{What: "allocations of a Fixed call, both sides", Figure: report.Of(fixed, allocations)},
		{What: "allocations of CallInto and Handle of a CBOR struct without pointers, both sides", Bar: 8, Figure: report.Of(encodedTick, allocations)},
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

// encodedTick returns a tick in CBOR.
func encodedTick() []byte {
	encoded, err := ipc.CBOR.Append(nil, newTick())
	if err != nil {
		panic(fmt.Sprintf("bench: encode a tick: %v", err)) // it is a constant
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

// overall is operations per second by the wall clock, of one caller as of many.
func overall(s measure.Sample) float64 { return float64(s.Ops) / s.Elapsed.Seconds() }

// allocations of an operation, rounded to what is not the benchmark's own.
func allocations(s measure.Sample) float64 {
	return math.Round(100*float64(s.Host.Mallocs+s.Worker.Mallocs)/float64(s.Ops)) / 100
}

// megabytes is the memory of both processes.
func megabytes(s measure.Sample) float64 { return float64(s.Host.RSS+s.Worker.RSS) / 1e6 }

// private is the memory that clients have added to their service, without what both have mapped.
func private(s measure.Sample) float64 { return float64(s.Private) / 1e6 }

// worst is how much longer the worst client waits than the median one.
func worst(s measure.Sample) float64 { return s.Worst }

func in10s(s measure.Sample, x float64) float64 {
	return x * (10 * time.Second).Seconds() / s.Elapsed.Seconds()
}
