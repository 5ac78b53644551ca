package main

import (
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/rings"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/shm"
)

// targets are what the library has to reach beside gRPC's streams and the programs of other
// languages. What is compared with these waits alike: both spin, but for calls from idle.
func targets() []report.Target {
	spins := func(subject, mode string, size int) report.Result { return rawResult(subject, mode, "spin", size) }
	echo := spins(aeron.name, rawEcho, 64)
	stream := spins(aeron.name, oneWay, 64)
	batch := func(r report.Result, n int) report.Result {
		r.Batch = n
		return r
	}
	paced := func(r report.Result) report.Result {
		r.Rate = int(time.Second / suite.Pause)
		return r
	}
	idle := paced(rawResult(shm.Name, fromIdle, "adaptive", 64))
	idleEvent := paced(report.Result{Scenario: rawName, Subject: iceoryx2.name, Mode: eventIdle, Wait: "sleep", Callers: 1})

	over := func(mode string, size int, figure func(measure.Sample) float64) func(report.Find) measure.Spread {
		return report.Over(figure, connectionsResult(shm.Name, mode, size), connectionsResult(unixName, mode, size))
	}
	cost, speed := measure.Sample.Cost, measure.Sample.OpsPerSecond
	shared := func(name string, size int) report.Target {
		return report.Target{What: "Call and Handle with buffers, " + name + ", over iceoryx2's echo, loaned", Unit: "x", Bar: 2, Aim: 1.3, Figure: report.Over(cost, spins(shm.Name, typedShare, size), spins(iceoryx2.name, rawLoaned, size))}
	}
	return []report.Target{
		{What: "stream of 64 B items over gRPC's over a Unix socket, items/s", Unit: "x", Bar: 50, Aim: 150, AtLeast: true, Figure: report.Over(speed, streamsResult(shm.Name, serverStream, "raw", 64), streamsResult(grpcPeer.name, serverStream, "raw", 64))},
		{What: "64 B there and back on a connection, over the same over a Unix socket", Unit: "x", Bar: 0.2, Aim: 0.05, Figure: over(connName, 64, cost)},
		{What: "net/http, 64 B, over the same over a Unix socket", Unit: "x", Bar: 0.6, Aim: 0.4, Figure: over(netHTTP.name, 64, cost)},
		{What: "gRPC, 64 B, over the same over a Unix socket", Unit: "x", Bar: 0.6, Aim: 0.4, Figure: over(grpcPeer.name, 64, cost)},
		{What: "writes of 64 KiB, over the same over a Unix socket, writes/s", Unit: "x", Bar: 1, Aim: 2, AtLeast: true, Figure: over(writesName, 64<<10, speed)},
		{What: "ring echo, 64 B, over Aeron's echo", Unit: "x", Bar: 1.3, Aim: 1, Figure: report.Over(cost, spins(rings.Copy, rawEcho, 64), echo)},
		{What: "call in place, 64 B, over Aeron's echo", Unit: "x", Bar: 2, Aim: 1.4, Figure: report.Over(cost, spins(shm.Name, inPlace, 64), echo)},
		{What: "Call and Handle, 64 B, over Aeron's echo", Unit: "x", Bar: 2.5, Aim: 1.8, Figure: report.Over(cost, spins(shm.Name, typedCall, 64), echo)},
		{What: "Call and Handle, 4 KiB, over Aeron's echo, copied out", Unit: "x", Bar: 1.3, Aim: 1, Figure: report.Over(cost, spins(shm.Name, typedCall, 4<<10), spins(aeron.name, rawCopied, 4<<10))},
		{What: "Call and Handle, 64 KiB, over iceoryx2's echo, copied out", Unit: "x", Bar: 1.3, Aim: 0.8, Figure: report.Over(cost, spins(shm.Name, typedCall, 64<<10), spins(iceoryx2.name, rawCopied, 64<<10))},
		shared("64 B", 64), shared("4 KiB", 4<<10), shared("1 MiB", 1<<20), shared("4 MiB", 4<<20),
		{What: "ring one way, 64 B, one by one, over Aeron's, messages/s", Unit: "x", Bar: 1, Aim: 1.5, AtLeast: true, Figure: report.Over(speed, batch(spins(rings.Copy, oneWay, 64), 1), stream)},
		{What: "ring one way, 64 B, in batches of 128, over Aeron's, messages/s", Unit: "x", Bar: 1, Aim: 1.5, AtLeast: true, Figure: report.Over(speed, batch(spins(rings.Copy, oneWay, 64), 128), stream)},
		{What: "broadcast one way, 64 B, one by one, over iceoryx2's, messages/s", Unit: "x", Bar: 2, Aim: 5, AtLeast: true, Figure: report.Over(speed, batch(spins(rings.Broadcast, oneWay, 64), 1), spins(iceoryx2.name, oneWay, 64))},
		{What: "Notify one way, 64 B, one by one, over Aeron's, messages/s", Unit: "x", Bar: 0.4, Aim: 1, AtLeast: true, Figure: report.Over(speed, batch(spins(shm.Name, oneWayCall, 64), 1), stream)},
		{What: "Notify one way, 64 B, by Batch, over Aeron's, messages/s", Unit: "x", Bar: 0.4, Aim: 1, AtLeast: true, Figure: report.Over(speed, batch(spins(shm.Name, oneWayCall, 64), notifyBatch), stream)},
		{What: "one call per ms from idle over iceoryx2's event", Unit: "x", Bar: 1.1, Aim: 0.9, Figure: report.Over(cost, idle, idleEvent)},
		{What: "the same, processor time of both processes", Unit: "x", Bar: 1.2, Aim: 1, Figure: report.Over(measure.Sample.CPU, idle, idleEvent)},
	}
}

// rawResult identifies a result of the scenario raw.
func rawResult(subject, mode, wait string, size int) report.Result {
	return report.Result{Scenario: rawName, Subject: subject, Mode: mode, Wait: wait, Codec: "raw", Bytes: new(size), Callers: 1}
}
