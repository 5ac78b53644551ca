package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
)

// The modes of scenario buffers, beside calls in place.
const (
	bufferEcho   = "buffer"
	bufferFilled = "buffer filled"
	buffersPass  = "buffers filled, two in flight"
	allocRelease = "Alloc and Release"
)

const (
	buffersName  = "buffers"
	arenaAlone   = "arena" // the subject of what needs no worker
	mostBySocket = 1 << 20 // of which the bytes travel
)

// buffersScenario measures buffers of shared memory.
func buffersScenario() suite.Scenario {
	return suite.Scenario{
		Name:     buffersName,
		Title:    "shared buffers: sent by handle, filled and read, and made",
		Subjects: append([]string{memcpy, arenaAlone}, suite.Drivers...),
		About: `One caller, and buffers of an arena. buffer: a buffer that was filled once is sent, the worker reads its first word ` +
			`and returns it, and the host reads that word and releases what it got; 16 round trips between two readings of the ` +
			`clock (over a socket: one), beside calls in place with 64 bytes, to which the ratios are. Over shared memory a handle crosses, ` +
			`whatever the size; over a socket the bytes do, up to 1 MiB here. buffer filled: the host fills all of the ` +
			`buffer, each time with other bytes, from a block of 4 KiB that it keeps in the cache, and the worker adds up all words and answers with the sum; one side works while the ` +
			`other waits. Two in flight: the host fills one buffer while the worker reads the other. memcpy is a copy of as many ` +
			`bytes in one process. MB/s counts the bytes of the buffers once. arena: Alloc and ` +
			`Release in one process, 16 times between two readings of the clock, of memory that the arena has. ` +
			`Not included: taking memory from the system, and mapping it when a process meets it for the first time.`,
		Plan: planBuffers,
	}
}

func planBuffers(o *suite.Options) (suite.Plan, error) {
	p := &buffersPlan{o: o, pool: new(suite.Pool), ways: suite.Ways(o, justOne, justOne)}
	p.arena = ipc.NewArena(ipc.ArenaOptions{Limit: 1 << 30})
	var skipped []string
	sizes := func(full ...int) (fit []int) {
		for _, size := range suite.Given(o, o.Sizes, full, full) {
			if size >= bufferLeast {
				fit = append(fit, size)
			}
		}
		return fit
	}
	for _, size := range o.Sizes {
		if size < bufferLeast {
			skipped = append(skipped, fmt.Sprintf("buffers of %s: they hold a word of 8 B", report.Size(size)))
		}
	}
	groups := []suite.Group{p.echoed(sizes(64, 4<<10, 1<<20, 64<<20))}
	for _, size := range sizes(64<<10, 1<<20, 64<<20) {
		groups = append(groups, p.filled(size))
	}
	groups = append(groups, p.made(sizes(64, 4<<10, 1<<20, 64<<20)))
	return suite.Plan{Groups: groups, Skipped: skipped, Close: func() {
		p.pool.Close()
		if err := p.arena.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the arena of buffers:", err)
		}
	}}, nil
}

// buffersPlan makes the groups.
type buffersPlan struct {
	o     *suite.Options
	pool  *suite.Pool
	arena *ipc.Arena
	ways  []suite.Way
}

func buffersResult(way suite.Way, mode string, size int) report.Result {
	return report.Result{Scenario: buffersName, Subject: way.Subject, Wait: way.Wait, Mode: mode, Codec: "raw", Bytes: new(size), Callers: 1}
}

// with adds what is measured with a worker.
func (p *buffersPlan) with(g *suite.Group, way suite.Way, mode string, size int, run func(context.Context, *suite.Worker, time.Duration) (measure.Sample, error)) {
	g.Cases = append(g.Cases, suite.Case{
		Result: buffersResult(way, mode, size),
		Run: func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
			err = p.pool.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
				s, err = run(ctx, w, d)
				return err
			})
			return s, err
		},
	})
}

// takes reports whether a buffer of that size is sent by way.
func takes(way suite.Way, size int) bool { return way.Subject == shm.Name || size <= mostBySocket }

// echoed has buffers of all sizes that are sent there and back, over calls in place.
func (p *buffersPlan) echoed(sizes []int) (g suite.Group) {
	const least = 64
	for _, way := range p.ways {
		base, together := len(g.Cases), 1
		if way.Subject == shm.Name {
			together = suite.TripsTogether
		}
		p.with(&g, way, inPlace, least, func(ctx context.Context, w *suite.Worker, d time.Duration) (measure.Sample, error) {
			return suite.MeasureTrips(ctx, w, d, 0, together, trips(ctx, rawLoad(w, inPlace, least, 1).New(0)))
		})
		for _, size := range sizes {
			if takes(way, size) {
				p.with(&g, way, bufferEcho, size, func(ctx context.Context, w *suite.Worker, d time.Duration) (measure.Sample, error) {
					return echoBuffers(ctx, w, p.arena, size, together, d)
				})
			}
		}
		for range g.Cases[base:] {
			g.Bases = append(g.Bases, base)
		}
	}
	return g
}

// filled has buffers of one size of which all is written and read, over copying as much.
func (p *buffersPlan) filled(size int) (g suite.Group) {
	if p.o.Wants(memcpy) {
		g.Cases = append(g.Cases, suite.Case{
			Result: buffersResult(suite.Way{Subject: memcpy}, "", size),
			Run: func(_ context.Context, d time.Duration) (measure.Sample, error) {
				s, err := copyMemory(size, d)
				s.Latencies = nil // as of what passes
				return s, err
			},
		})
	}
	for _, way := range p.ways {
		if !takes(way, size) {
			continue
		}
		p.with(&g, way, bufferFilled, size, func(ctx context.Context, w *suite.Worker, d time.Duration) (measure.Sample, error) {
			return filledBuffers(ctx, w, p.arena, size, d)
		})
		p.with(&g, way, buffersPass, size, func(ctx context.Context, w *suite.Worker, d time.Duration) (measure.Sample, error) {
			return passBuffers(ctx, w, p.arena, size, d)
		})
	}
	return g
}

// made has Alloc and Release alone.
func (p *buffersPlan) made(sizes []int) (g suite.Group) {
	if !p.o.Wants(arenaAlone) {
		return g
	}
	for _, size := range sizes {
		r := buffersResult(suite.Way{Subject: arenaAlone}, allocRelease, size)
		r.Codec, r.Callers = "", 0
		g.Cases = append(g.Cases, suite.Case{Result: r, Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
			return allocBuffers(ctx, p.arena, size, d)
		}})
	}
	return g
}
