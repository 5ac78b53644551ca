// Pipeline finds out with which words the lines of files begin, how many lines each word has, how
// many bytes, and the longest. The work is done in stages, each by several worker processes:
//
//	read -> split -> parse -> aggregate by key -> report
//
//	go run ./examples/pipeline [-driver shm|socket] [-workers N] [-verify] [PATH ...]
//
// Without a PATH it reads the source tree of the Go installation. Files that end with .gz or .zst
// are unpacked. While it runs it shows what each stage does; kill -9 or kill -STOP any worker, at
// any time and as often as you like: the result stays the same. With -verify it does the same in
// one process afterwards, and compares.
//
// Ctrl-C makes it finish what it has read. The exit status is 0 if all went well, 1 if something failed
// or the results differ, 2 for wrong usage, and 130 after Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

// stages are the names of the workers' entries.
var stages = []string{"split", "parse", "aggregate"}

type options struct {
	driver  string
	workers int
	verify  bool
	paths   []string
}

func main() {
	for _, name := range stages {
		worker.Main(name, serve) // in a worker's process this does not return
	}
	var o options
	flag.StringVar(&o.driver, "driver", shm.Name, "how records cross: shm or socket")
	flag.IntVar(&o.workers, "workers", 2, "number of worker processes of each stage")
	flag.BoolVar(&o.verify, "verify", false, "do the same in one process, and compare")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: pipeline [-driver shm|socket] [-workers N] [-verify] [PATH ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	o.paths = flag.Args()
	if o.driver != shm.Name && o.driver != "socket" || o.workers < 1 {
		fmt.Fprintln(os.Stderr, "pipeline: the driver is shm or socket, and there is at least one worker")
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := o.run(ctx)
	stop()
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "pipeline: interrupted; the figures are of what was read until then")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "pipeline:", err)
		os.Exit(1)
	}
}

func (o *options) run(ctx context.Context) error {
	files, err := find(ctx, o.paths)
	if err != nil {
		return err
	}
	var totals Totals
	if o.driver == shm.Name {
		totals, err = count(ctx, shm.Driver{}, o.workers, files)
	} else {
		totals, err = count(ctx, socket.Driver{}, o.workers, files)
	}
	if totals != nil {
		report(totals, len(files))
	}
	if err != nil || !o.verify {
		return err
	}
	alone, err := countAlone(ctx, files)
	switch {
	case err != nil:
		return err
	case !totals.equal(alone):
		return errors.New("one process finds something else")
	}
	fmt.Println("verified: one process finds the same")
	return nil
}

// count counts with the help of workers.
func count[C drivers.Channel](ctx context.Context, driver drivers.Driver[C], workers int, files []string) (Totals, error) {
	pools := make(map[string]*pool.Pool[C])
	var pids []int
	defer func() {
		for _, p := range pools {
			_ = p.Close() // that of a worker that somebody has killed is an error, too
		}
	}()
	for _, name := range stages {
		p, err := pool.New(ctx, workers, worker.Self(name), driver, pool.WithWorkers(
			worker.WithRestart(worker.Restart{Delay: 5 * time.Millisecond, MaxDelay: 100 * time.Millisecond, MaxRestarts: -1}),
			worker.WithHeartbeat(200*time.Millisecond, 2*time.Second), // finds those that are stopped
			worker.WithGrace(time.Second),
			worker.WithEvents(func(e worker.Event) {
				var exit *worker.ExitError
				if e.Kind == worker.EventExited && errors.As(e.Err, &exit) && exit.Code != 0 {
					fmt.Fprintf(os.Stderr, "%s: %v; what it had goes to others\n", name, e.Err)
				}
			})))
		if err != nil {
			return nil, err
		}
		pools[name] = p
		for _, c := range p.Clients() {
			pids = append(pids, c.PID())
		}
	}
	fmt.Fprintln(os.Stderr, "the workers run:", pids)
	// No record of these kills, but somebody may kill at random.
	patient := pipeline.Deaths(1000)

	groups := pipeline.Flatten(pipeline.Through(pipeline.From(blocks(files), pipeline.Size(countBlocks(files))), Split, pools["split"], patient))
	parsed := pipeline.Flatten(pipeline.Through(groups, Parse, pools["parse"], patient))
	facts := pipeline.Through(parsed, Aggregate, pools["aggregate"], patient,
		pipeline.By(func(b Bucket) string { return strconv.Itoa(b.Number) }))

	totals := make(Totals)
	watchCtx, stop := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		pipeline.Watch(watchCtx, os.Stderr, facts.Stats, time.Second)
	}()
	err := facts.Into(ctx, pipeline.SinkFunc[[]Fact](func(_ context.Context, f []Fact) error {
		totals.add(f)
		return nil
	}))
	stop()
	<-watched
	return totals, err
}

// countAlone counts in this process.
func countAlone(ctx context.Context, files []string) (Totals, error) {
	totals := make(Totals)
	for block, err := range blocks(files) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		for _, group := range split(block) {
			for _, b := range parse(group) {
				totals.add(aggregate(b))
			}
		}
	}
	return totals, nil
}

func report(t Totals, files int) {
	var all Fact
	for _, f := range t {
		all.add(*f)
	}
	fmt.Printf("%d files, %d lines, %d bytes, %d first words\n", files, all.Lines, all.Bytes, len(t))
	for _, f := range t.top(15) {
		fmt.Printf("%10d lines %12d bytes, longest %6d  %q\n", f.Lines, f.Bytes, f.Longest, f.Key)
	}
}
