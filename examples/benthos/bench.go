package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
)

// effort is how thoroughly the benchmark measures.
type effort struct {
	rounds int
	each   time.Duration // of each measurement
}

var thorough = effort{rounds: 7, each: 700 * time.Millisecond}

const benchLine = `203.0.113.7 - - [27/Nov/2026:10:00:00 +0000] "GET /images/launch/logo.gif HTTP/1.1" 200 1839`

// subjects are the processors that do the same, in the order of the table.
var subjects = []struct {
	name string
	conf func(program string, threads int) string
}{
	{"subprocess", func(program string, _ int) string {
		return fmt.Sprintf("subprocess: {name: %q, args: [%s]}", program, linesCommand)
	}},
	{"tandem, shm", func(_ string, threads int) string { return tandemConf("shm", threads) }},
	{"tandem, socket", func(_ string, threads int) string { return tandemConf("socket", threads) }},
	{"in the engine's process", func(string, int) string { return benchProcessor + ": {}" }},
}

func tandemConf(driver string, workers int) string {
	return fmt.Sprintf("tandem: {self: %s, method: parse_only, driver: %s, workers: %d}", workerName, driver, workers)
}

// benchProcessor is a processor that does the work in this process.
const benchProcessor = "parse_here"

type here struct{}

func (here) Process(_ context.Context, m *service.Message) (service.MessageBatch, error) {
	b, err := m.AsBytes()
	if err != nil {
		return nil, err
	}
	out, _, err := parseLine(b)
	if err != nil {
		return nil, err
	}
	m.SetBytes(out)
	return service.MessageBatch{m}, nil
}

func (here) Close(context.Context) error { return nil }

var registerHere = sync.OnceValue(func() error {
	return service.RegisterProcessor(benchProcessor, service.NewConfigSpec(), func(*service.ParsedConfig, *service.Resources) (service.Processor, error) {
		return here{}, nil
	})
})

// bench measures messages per second through a whole stream, from an input until the acknowledgement, and writes a
// table of medians. Subjects take turns.
func bench(out io.Writer, e effort) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if err := registerHere(); err != nil {
		return err
	}
	fmt.Fprintln(out, "| messages/s, and times subprocess | batches of 1, 1 thread | of 20, 1 thread | of 200, 1 thread | of 200, 2 threads and workers |")
	fmt.Fprintln(out, "| --- | ---: | ---: | ---: | ---: |")
	cases := []struct{ size, threads int }{{1, 1}, {20, 1}, {200, 1}, {200, 2}}
	rates := make([][][]float64, len(subjects)) // by subject and case
	for i := range rates {
		rates[i] = make([][]float64, len(cases))
	}
	for range e.rounds {
		for c, cs := range cases {
			for s := range subjects {
				rate, err := measure(subjects[s].conf(program, cs.threads), cs.size, cs.threads, e.each)
				if err != nil {
					return fmt.Errorf("%s: %w", subjects[s].name, err)
				}
				rates[s][c] = append(rates[s][c], rate)
			}
		}
	}
	for s := range subjects {
		fmt.Fprintf(out, "| %s |", subjects[s].name)
		for c := range cases {
			rate, base := median(rates[s][c]), median(rates[0][c])
			fmt.Fprintf(out, " %.0f (%.1f) |", rate, rate/base)
		}
		fmt.Fprintln(out)
	}
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// measure returns how many messages per second go through a stream with a processor.
func measure(conf string, size, threads int, d time.Duration) (rate float64, err error) {
	b := service.NewStreamBuilder()
	b.SetThreads(threads)
	if err := errors.Join(b.SetLoggerYAML("level: none"), b.AddProcessorYAML(conf)); err != nil {
		return 0, err
	}
	produce, err := b.AddBatchProducerFunc()
	if err != nil {
		return 0, err
	}
	want, _, err := parseLine([]byte(benchLine))
	if err != nil {
		return 0, err
	}
	var count atomic.Int64
	if err := b.AddBatchConsumerFunc(func(_ context.Context, got service.MessageBatch) error {
		for _, m := range got {
			if err := m.GetError(); err != nil {
				return err
			}
			if b, err := m.AsBytes(); err != nil || !bytes.Equal(b, want) {
				return errors.Join(err, errors.New("wrong result: "+strconv.Quote(string(b))))
			}
		}
		count.Add(int64(len(got)))
		return nil
	}); err != nil {
		return 0, err
	}
	stream, err := b.Build()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ran := make(chan error, 1)
	go func() {
		err := stream.Run(ctx)
		cancel() // and nothing waits for it
		ran <- err
	}()
	send := func() error {
		batch := make(service.MessageBatch, size)
		for i := range batch {
			batch[i] = service.NewMessage([]byte(benchLine))
		}
		return produce(ctx, batch)
	}
	if err := send(); err != nil { // until all is started
		select {
		case why := <-ran:
			return 0, errors.Join(err, why)
		default:
			return 0, errors.Join(err, stream.StopWithin(time.Minute), <-ran)
		}
	}
	count.Store(0)
	errs := make([]error, 2*threads)
	start := time.Now()
	var senders sync.WaitGroup
	for i := range errs {
		senders.Go(func() {
			for time.Since(start) < d && errs[i] == nil {
				errs[i] = send()
			}
		})
	}
	senders.Wait()
	rate = float64(count.Load()) / time.Since(start).Seconds()
	return rate, errors.Join(append(errs, stream.StopWithin(time.Minute), <-ran)...)
}
