package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/rings"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
)

// The modes of scenario streams.
const (
	serverStream = "server stream"
	clientStream = "client stream"
	bidiStream   = "bidi stream"
	encodes      = "encodes"
	decodes      = "decodes"
	firstItem    = "first item"
	plainCall    = "call"
	besideStream = "calls beside a stream"
	besideOther  = "calls beside one of another link"
	millionItems = "1,000,000 items"
	idleStreamed = "idle streams"
)

const (
	streamsName = "streams"
	// manyItems and manyStreams are how many the targets are for.
	manyItems, manySize = 1_000_000, 100
	manyStreams         = 10_000
	bulkItem            = 64 << 10
	besideBatch         = 128
)

// streamsScenario measures streams. What goes one way without them is scenario stream.
func streamsScenario() suite.Scenario {
	return suite.Scenario{
		Name:     streamsName,
		Title:    "ServerStream, ClientStream and BidiStream: items on one stream",
		Subjects: append([]string{rings.Copy, memcpy, codecAlone}, suite.Drivers...),
		About: `One stream, and one goroutine at each end, which sends as fast as it can, with the window and the gathering ` +
			`that streams have by default. Each item has a number, and both ends of each are checked, and that none is missing. ` +
			`The clock runs from the opening to the end: of a server stream, to the host, when the host has received it, of a ` +
			`client stream when the worker has answered; a bidi stream returns each item, and counts those that have come ` +
			`back. ring is the bare ring beside them, host to worker, 128 records published at once, fewer if they are large; codec encodes or decodes the same ` +
			`item alone, and memcpy copies it once, in one process. ` +
			`First item: a stream is opened with a request of 64 bytes, and the clock stops when its first item is there; call is ` +
			`Call and Handle of 64 bytes. Calls beside a stream: one caller, in place, 64 bytes, while items of 64 KiB come as fast ` +
			`as they can, on the same link or on that of another worker. The rows of 1,000,000 items and of idle streams ` +
			`are of processes that were started for them; memory is the peak of both with the programs, and of idle streams, of which ` +
			`each has echoed an item before, what both have more than without; CPU is in percent of one core over 10 s (-quick: 1 s). ` +
			`Not to be confused with scenario stream: notifications and calls in flight.`,
		Plan: planStreams,
	}
}

func planStreams(o *suite.Options) (suite.Plan, error) {
	p := &streamsPlan{o: o, pool: new(suite.Pool), others: new(suite.Pool), rings: new(rings.Pool), ways: suite.Ways(o, justOne, justOne)}
	groups := []suite.Group{p.small(), p.encoded()}
	for _, size := range suite.Given(o, o.Sizes, []int{4 << 10, bulkItem, 1 << 20}, []int{bulkItem}) {
		if size < suite.ItemLeast {
			p.skipped = append(p.skipped, fmt.Sprintf("items of %s: they hold two numbers of 8 B", report.Size(size)))
			continue
		}
		groups = append(groups, p.large(size))
	}
	groups = append(groups, p.first(), p.calls(), p.million(), p.idle())
	return suite.Plan{Groups: groups, Skipped: p.skipped, Close: func() {
		p.pool.Close()
		p.others.Close()
		p.rings.Close()
	}}, nil
}

// streamsPlan makes the groups.
type streamsPlan struct {
	o       *suite.Options
	pool    *suite.Pool
	others  *suite.Pool // workers at other links of the same ways
	rings   *rings.Pool
	ways    []suite.Way
	skipped []string
}

func streamsResult(way suite.Way, mode, codec string, size int) report.Result {
	return report.Result{Scenario: streamsName, Subject: way.Subject, Wait: way.Wait, Mode: mode, Codec: codec, Bytes: new(size), Callers: 1}
}

// passing adds items that pass.
func (p *streamsPlan) passing(g *suite.Group, way suite.Way, mode, codec string, size int, pass passing) {
	g.Cases = append(g.Cases, suite.Case{
		Result: streamsResult(way, mode, codec, size),
		Run: func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
			err = p.pool.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
				s, err = pass.measured(ctx, w, size, d)
				return err
			})
			return s, err
		},
	})
}

// bare adds the bare ring.
func (p *streamsPlan) bare(g *suite.Group, size, batch int) {
	if !p.o.Wants(rings.Copy) || rings.Supported() != nil {
		return
	}
	g.Cases = append(g.Cases, suite.Case{
		Result: report.Result{Scenario: streamsName, Subject: rings.Copy, Wait: adaptive, Bytes: new(size), Batch: batch},
		Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
			return p.rings.OneWay(ctx, adaptive, rings.Copy, size, batch, d)
		},
	})
}

// small has items of 64 bytes.
func (p *streamsPlan) small() (g suite.Group) {
	p.bare(&g, tickSize, besideBatch)
	for _, way := range p.ways {
		p.passing(&g, way, serverStream, "fixed", tickSize, passTicksDown)
		p.passing(&g, way, clientStream, "fixed", tickSize, passTicksUp)
		p.passing(&g, way, serverStream, "raw", tickSize, passBytesDown)
		p.passing(&g, way, bidiStream, "raw", tickSize, passBytesEchoed)
	}
	return g
}

// encoded has items of ten fields, over what the codec takes for them.
func (p *streamsPlan) encoded() (g suite.Group) {
	size := len(encodedRecord())
	if p.o.Wants(codecAlone) {
		for _, mode := range []string{decodes, encodes} {
			r := streamsResult(suite.Way{Subject: codecAlone}, mode, "cbor", size)
			r.Callers = 0
			g.Cases = append(g.Cases, suite.Case{Result: r, Run: func(_ context.Context, d time.Duration) (measure.Sample, error) {
				s, err := halfOfCodec(mode, d)
				s.Latencies = nil // as of what passes
				return s, err
			}})
		}
	}
	for _, way := range p.ways {
		p.passing(&g, way, serverStream, "cbor", size, passRecordsDown)
	}
	return g
}

// encodedRecord returns a record in CBOR.
func encodedRecord() []byte {
	r := newRecord()
	r.Number, r.Check = 1<<16, ^uint64(1<<16)
	encoded, err := ipc.CBOR.Append(nil, r)
	if err != nil {
		panic(fmt.Sprintf("bench: encode a record: %v", err)) // it is a constant
	}
	return encoded
}

// halfOfCodec measures what one side of a stream pays for the codec.
func halfOfCodec(mode string, d time.Duration) (measure.Sample, error) {
	item, encoded := newRecord(), encodedRecord()
	if mode == decodes {
		return timeAlone(d, func() (err error) {
			item, err = ipc.Unmarshal[record](ipc.CBOR, encoded)
			return err
		})
	}
	return timeAlone(d, func() (err error) {
		item.Number++
		item.Check = ^item.Number
		encoded, err = ipc.Marshal(ipc.CBOR, encoded[:0], item)
		return err
	})
}

// large has larger items, over copying them, beside the ring.
func (p *streamsPlan) large(size int) (g suite.Group) {
	if p.o.Wants(memcpy) {
		r := streamsResult(suite.Way{Subject: memcpy}, "", "raw", size)
		r.Callers = 0
		g.Cases = append(g.Cases, suite.Case{Result: r, Run: func(_ context.Context, d time.Duration) (measure.Sample, error) {
			s, err := copyMemory(size, d)
			s.Latencies = nil // as of what passes
			return s, err
		}})
	}
	if size <= rings.Bytes/2-8 {
		p.bare(&g, size, max(1, min(besideBatch, rings.Bytes/4/size)))
	}
	for _, way := range p.ways {
		p.passing(&g, way, serverStream, "raw", size, passBytesDown)
	}
	return g
}

// first has what it takes to begin.
func (p *streamsPlan) first() (g suite.Group) {
	const size = 64
	for i, way := range p.ways {
		call, opening := streamsResult(way, plainCall, "raw", size), streamsResult(way, firstItem, "raw", size)
		call.Callers, opening.Callers = 0, 0
		g.Cases = append(g.Cases, suite.Case{Result: call, Run: rawCalls(p.pool, way, "", size, 1)})
		g.Cases = append(g.Cases, suite.Case{Result: opening, Run: loads(p.pool, way, func(w *suite.Worker) suite.Load {
			return suite.Load{Worker: w, Callers: 1, Bytes: 2 * size, New: func(int) suite.Operation { return newOpening(w, size) }}
		})})
		g.Bases = append(g.Bases, 2*i, 2*i)
	}
	return g
}

// calls has calls beside a stream, over those beside one of another link.
func (p *streamsPlan) calls() (g suite.Group) {
	for i, way := range p.ways {
		for _, mode := range []string{besideOther, besideStream} {
			r := streamsResult(way, mode, "raw", 64)
			r.Callers = 0
			g.Cases = append(g.Cases, suite.Case{
				Result:   r,
				Duration: 2 * p.o.Duration, // for the 99th percentile
				Run: func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
					err = p.pool.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
						if mode == besideStream {
							s, err = callsBesideStream(ctx, w, w, d)
							return err
						}
						return p.others.With(ctx, way, ipc.CBOR, func(other *suite.Worker) error {
							s, err = callsBesideStream(ctx, w, other, d)
							return err
						})
					})
					return s, err
				},
			})
			g.Bases = append(g.Bases, 2*i)
		}
	}
	return g
}

// million has the memory of many items.
func (p *streamsPlan) million() suite.Group {
	g := suite.Group{NoRatio: true, Rounds: min(p.o.Rounds, 3)}
	for _, way := range p.ways {
		g.Cases = append(g.Cases, suite.Case{
			Result:   streamsResult(way, millionItems, "raw", manySize),
			Duration: time.Second,
			Run: func(ctx context.Context, _ time.Duration) (measure.Sample, error) {
				return inFreshHost(ctx, streamHostRequest{Way: way, Most: manyItems, Size: manySize})
			},
		})
	}
	return g
}

// idle has what streams cost that nobody uses.
func (p *streamsPlan) idle() suite.Group {
	d := 10 * time.Second
	if p.o.Quick {
		d = time.Second
	}
	g := suite.Group{NoRatio: true, Rounds: min(p.o.Rounds, 3)}
	for _, n := range suite.Given(p.o, p.o.Callers, []int{manyStreams}, []int{manyStreams}) {
		for _, way := range p.ways {
			r := streamsResult(way, idleStreamed, "", 0)
			r.Bytes, r.Callers = nil, n
			g.Cases = append(g.Cases, suite.Case{Result: r, Duration: min(d, 50*p.o.Duration), Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
				return inFreshHost(ctx, streamHostRequest{Way: way, Idle: n, Size: 64, For: d})
			}})
		}
	}
	return g
}
