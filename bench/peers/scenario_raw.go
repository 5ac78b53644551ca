package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/rings"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
)

// The modes of the scenario, which say what a figure is of: bytes that come back, or a call
// of which the answer belongs to the request.
const (
	rawEcho    = "raw echo"
	rawCopied  = "raw echo, copied out"
	rawLoaned  = "raw echo, loaned"
	inPlace    = "call in place"
	typedCall  = "typed call"
	typedShare = "typed call, buffers"
	fromIdle   = "typed call from idle"
	eventIdle  = "event from idle"
	echoIdle   = "raw echo from idle"
	oneWay     = "one way"
	oneWayCall = "notifications in place"
	event      = "event"
)

const (
	rawName     = "raw"
	notifyBatch = 256 // notifications in a batch
)

// A foreignKind is a kind of a foreign program, and how it is shown.
type foreignKind struct {
	*foreign
	kind, mode, wait string
}

var (
	foreignPrograms = []*foreign{&aeron, &iceoryx2}

	foreignTrips = []foreignKind{
		{&aeron, "spin", rawEcho, "spin"}, {&aeron, "backoff", rawEcho, "backoff"},
		{&aeron, "copied", rawCopied, "spin"},
		{&iceoryx2, "pubsub", rawEcho, "spin"}, {&iceoryx2, "copied", rawCopied, "spin"}, {&iceoryx2, "loaned", rawLoaned, "spin"},
		{&iceoryx2, "reqres", typedCall, "spin"}, {&iceoryx2, eventKind, event, "sleep"},
	}
	foreignOneWay = []foreignKind{{&aeron, oneWayKind, oneWay, "spin"}, {&iceoryx2, oneWayKind, oneWay, "spin"}}
	foreignIdle   = []foreignKind{{&aeron, "backoff", echoIdle, "backoff"}, {&iceoryx2, eventKind, eventIdle, "sleep"}}
)

func rawScenario() suite.Scenario {
	return suite.Scenario{
		Name: rawName, Title: "against what other languages have in shared memory",
		Subjects: []string{aeron.name, rings.Copy, rings.Broadcast, shm.Name, iceoryx2.name},
		About: `Two processes each, of Go, of Rust (iceoryx2) or of Java (Aeron); the foreign ones are programs of ours that ` +
			`measure themselves, in the same rounds, and are started once. Mind what is compared, which the mode says. ` +
			`A raw echo is bytes that the other side sends back as they come: the ring, Aeron, and iceoryx2's ` +
			`publish-subscribe, whose loaned samples are not copied: only their ends are written. Copied out means that ` +
			`both sides also copy what comes into memory of their own, as Call and Handle do. A typed call has ` +
			`an answer that belongs to its request, from a handler: Call and Handle of Tandem, of which call in place ` +
			`is CallInto and HandleInPlace, and request-response of iceoryx2; with buffers both sides make one, write its ends and send it by Call and Handle, as loaned samples are. An event has no message. First come round ` +
			`trips, each timed by itself, with a reading of the clock in it, the same for all; then messages one way, until the ` +
			`other side has said that all have arrived, where broadcast is the ring of many readers with one; last one operation per millisecond from idle. What spins takes ` +
			`a processor on each side. Aeron also has its media driver, in the process that answers. Ratios are over ` +
			`Aeron that spins, if it is there. More than 64 KiB, and with -quick more than 64 B, are measured for the targets alone. Processor time of foreign programs is that of both, and their allocations ` +
			`are not counted.`,
		Plan: planRaw,
	}
}

// rawLeast is what a message of the foreign programs has to hold: a number at each end.
const rawLeast = 16

func planRaw(o *suite.Options) (suite.Plan, error) {
	workers, bare, broadcasts, others := new(suite.Pool), new(rings.Pool), new(rings.Broadcasts), new(foreigners)
	arena := ipc.NewArena(ipc.ArenaOptions{})
	p := suite.Plan{Close: func() {
		workers.Close()
		bare.Close()
		broadcasts.Close()
		others.close()
		if err := arena.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the arena of raw:", err)
		}
	}}
	commands := make(map[string][]string)
	for _, f := range foreignPrograms {
		if !o.Wants(f.name) {
			continue
		}
		command, err := f.command()
		if err != nil {
			p.Skipped = append(p.Skipped, fmt.Sprintf("%s: %v", f.name, err))
			continue
		}
		commands[f.name] = command
	}
	if err := ring.Supported(); err != nil {
		p.Skipped = append(p.Skipped, err.Error())
	}
	const most = 64 << 10 // of what is measured of all
	sizes := []int{64, 4 << 10, most, 1 << 20, 4 << 20}
	for _, size := range suite.Given(o, o.Sizes, sizes, sizes) {
		if size < rawLeast {
			p.Skipped = append(p.Skipped, fmt.Sprintf("messages of %s: they hold a number of 8 B at each end", report.Size(size)))
			continue
		}
		first, asked := len(p.Groups) == 0, len(o.Sizes) > 0
		for _, f := range foreignPrograms {
			if commands[f.name] != nil && size > f.most && (asked || size <= most) {
				p.Skipped = append(p.Skipped, fmt.Sprintf("%s with %s, which is more than it takes", f.name, report.Size(size)))
			}
		}
		b := rawGroups{o: o, size: size, first: first, commands: commands, workers: workers, rings: bare, broadcasts: broadcasts, foreigners: others, arena: arena}
		for _, g := range []suite.Group{b.trips(), b.oneWay(), b.idle()} {
			if !asked && (o.Quick && !first || size > most) {
				g.Cases = slices.DeleteFunc(g.Cases, func(c suite.Case) bool { return !report.Needed(targets(), c.Result) })
			}
			// Ratios are over the first.
			if i := slices.IndexFunc(g.Cases, func(c suite.Case) bool { return c.Result.Subject == aeron.name }); i > 0 {
				g.Cases = slices.Concat(g.Cases[i:i+1], g.Cases[:i], g.Cases[i+1:])
			}
			p.Groups = append(p.Groups, g)
		}
	}
	return p, nil
}

// rawGroups makes the groups of one size.
type rawGroups struct {
	o          *suite.Options
	size       int
	first      bool // of the sizes
	commands   map[string][]string
	workers    *suite.Pool
	rings      *rings.Pool
	broadcasts *rings.Broadcasts
	foreigners *foreigners
	arena      *ipc.Arena // of the host's buffers
}

func (b *rawGroups) result(subject, mode, wait string) report.Result {
	return rawResult(subject, mode, wait, b.size)
}

// foreign adds those kinds of the programs that are there.
func (b *rawGroups) foreign(g *suite.Group, rate int, pace time.Duration, kinds []foreignKind) {
	for _, k := range kinds {
		command := b.commands[k.name]
		if command == nil || b.size > k.most {
			continue
		}
		r := b.result(k.name, k.mode, k.wait)
		r.Rate = rate
		if k.kind == eventKind { // carries nothing, so it is the same for all sizes
			if !b.first {
				continue
			}
			r.Codec, r.Bytes = "", nil
		}
		g.Cases = append(g.Cases, suite.Case{Result: r, Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
			return b.foreigners.measure(ctx, k.foreign, command, k.kind, b.size, d, pace)
		}})
	}
}

// ways are those of shm: by default it spins, as the others do.
func (b *rawGroups) ways(defaults ...string) (ways []suite.Way) {
	return slices.DeleteFunc(suite.Ways(b.o, defaults, defaults), func(w suite.Way) bool { return w.Subject != shm.Name })
}

func (b *rawGroups) driver(g *suite.Group, way suite.Way, mode string, rate int, run func(context.Context, *suite.Worker, time.Duration) (measure.Sample, error)) {
	r := b.result(way.Subject, mode, way.Wait)
	r.Rate = rate
	g.Cases = append(g.Cases, suite.Case{Result: r, Run: func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
		err = b.workers.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
			s, err = run(ctx, w, d)
			return err
		})
		return s, err
	}})
}

// operation is a call of Tandem.
func (b *rawGroups) operation(w *suite.Worker, mode string) suite.Operation {
	switch mode {
	case typedCall:
		return suite.NewEcho(driverClient{w}.Echo(0), b.size)
	case typedShare:
		return &bufferCall{to: w, arena: b.arena, size: b.size}
	}
	var response []byte
	return suite.NewEcho(func(ctx context.Context, request []byte) ([]byte, error) {
		err := echoInPlace.CallInto(ctx, w, request, &response)
		return response, err
	}, b.size)
}

func (b *rawGroups) load(w *suite.Worker, mode string) suite.Load {
	bytes := 2 * b.size
	if mode == typedShare {
		bytes = 0 // none are moved
	}
	return suite.Load{Worker: w, Callers: 1, Bytes: bytes, New: func(int) suite.Operation { return b.operation(w, mode) }}
}

func (b *rawGroups) trips() (g suite.Group) {
	if b.o.Wants(rings.Copy) && rings.Supported() == nil && b.size <= rings.Bytes/2-8 {
		for _, wait := range suite.Given(b.o, b.o.Waits, []string{"spin"}, []string{"spin"}) {
			g.Cases = append(g.Cases, suite.Case{Result: b.result(rings.Copy, rawEcho, wait), Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
				return b.rings.RoundTrips(ctx, wait, b.size, 1, d)
			}})
		}
	}
	for _, way := range b.ways("spin", "adaptive") {
		for _, mode := range []string{inPlace, typedCall, typedShare} {
			b.driver(&g, way, mode, 0, func(ctx context.Context, w *suite.Worker, d time.Duration) (measure.Sample, error) {
				return b.load(w, mode).Run(ctx, d)
			})
		}
	}
	b.foreign(&g, 0, 0, foreignTrips)
	return g
}

// ring adds a ring, one way, as it is used by run.
func (b *rawGroups) ring(g *suite.Group, subject string, run func(ctx context.Context, wait string, batch int, d time.Duration) (measure.Sample, error)) {
	if !b.o.Wants(subject) || rings.Supported() != nil || b.size > rings.Bytes/2-8 {
		return
	}
	for _, wait := range suite.Given(b.o, b.o.Waits, []string{"spin"}, []string{"spin"}) {
		for _, batch := range []int{1, 128} {
			r := b.result(subject, oneWay, wait)
			r.Batch = batch
			g.Cases = append(g.Cases, suite.Case{Result: r, Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
				return run(ctx, wait, batch, d)
			}})
		}
	}
}

func (b *rawGroups) oneWay() (g suite.Group) {
	b.ring(&g, rings.Copy, func(ctx context.Context, wait string, batch int, d time.Duration) (measure.Sample, error) {
		return b.rings.OneWay(ctx, wait, rings.Copy, b.size, batch, d)
	})
	b.ring(&g, rings.Broadcast, func(ctx context.Context, wait string, batch int, d time.Duration) (measure.Sample, error) {
		return b.broadcasts.OneWay(ctx, wait, 1, b.size, batch, d)
	})
	for _, way := range b.ways("spin") {
		for _, batch := range []int{1, notifyBatch} {
			b.driver(&g, way, oneWayCall, 0, func(ctx context.Context, w *suite.Worker, d time.Duration) (measure.Sample, error) {
				run := suite.Notify(suite.SinkInPlace, batch)
				if _, err := run(ctx, w, b.size, d/10); err != nil { // warm up
					return measure.Sample{}, err
				}
				return run(ctx, w, b.size, d)
			})
			g.Cases[len(g.Cases)-1].Result.Batch = batch
		}
	}
	b.foreign(&g, 0, 0, foreignOneWay)
	return g
}

// idle has one operation per millisecond.
func (b *rawGroups) idle() (g suite.Group) {
	const rate = int(time.Second / suite.Pause)
	for _, way := range b.ways("adaptive", "park") {
		b.driver(&g, way, fromIdle, rate, func(ctx context.Context, w *suite.Worker, d time.Duration) (measure.Sample, error) {
			if _, err := b.load(w, typedCall).Run(ctx, d/20); err != nil { // warm up
				return measure.Sample{}, err
			}
			return suite.FromIdle(ctx, w, b.operation(w, typedCall), 2*b.size, d)
		})
	}
	b.foreign(&g, rate, suite.Pause, foreignIdle)
	for i := range g.Cases {
		g.Cases[i].Duration = max(3*b.o.Duration, 10*time.Millisecond) // there is little in less
	}
	return g
}
