// Arrow makes a table of trades, batch by batch, and lets worker processes filter it and add it up
// by symbol. The batches lie in shared memory, of which there is much less than the table has, and
// the workers read them there.
//
//	go run . [-driver shm|socket] [-workers N] [-size BYTES] [-arena BYTES] [-verify]
//
// With -verify it does the same in this process, too, and compares the results.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/arrowipc"
	"github.com/tandemipc/tandem/worker"
)

// workerName tells the worker's process what it is.
const workerName = "arrow"

type options struct {
	driver      string
	workers     int
	size, arena int64
	verify      bool
}

func main() {
	worker.Main(workerName, serve) // in a worker's process this does not return

	var o options
	flag.StringVar(&o.driver, "driver", shm.Name, "how batches cross: shm or socket")
	flag.IntVar(&o.workers, "workers", 2, "number of worker processes")
	flag.Int64Var(&o.size, "size", 1<<30, "bytes of the table")
	flag.Int64Var(&o.arena, "arena", 64<<20, "bytes of shared memory")
	flag.BoolVar(&o.verify, "verify", false, "compare the result with that of this process alone")
	flag.Parse()
	if flag.NArg() > 0 || o.workers < 1 || o.size < 1 || o.arena < 4<<20 || o.driver != shm.Name && o.driver != "socket" {
		fmt.Fprintln(os.Stderr, "arrow: the driver is shm or socket, the arena has 4 MiB or more, and all else is 1 or more")
		flag.Usage()
		os.Exit(2)
	}
	if err := run(context.Background(), os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "arrow:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, o options) error {
	start := time.Now()
	t := table{batches: int((o.size + batchBytes - 1) / batchBytes)}
	totals, err := inWorkers(ctx, o, t)
	if err != nil {
		return err
	}
	took := time.Since(start)
	totals.print(out)
	report := func(where string, took time.Duration) {
		fmt.Fprintf(out, "%s: %d MiB in %v, %.0f MiB/s\n", where, t.bytes()>>20, took.Round(time.Millisecond), float64(t.bytes())/(1<<20)/took.Seconds())
	}
	report(fmt.Sprintf("%d workers, %s, through %d MiB", o.workers, o.driver, o.arena>>20), took)
	if peak := peakMemory(); peak > 0 {
		fmt.Fprintf(out, "peak memory: host %d MiB, worker %d MiB at most\n", peak>>20, totals.Peak>>20)
	}
	if !o.verify {
		return nil
	}
	start = time.Now()
	alone := inThisProcess(t)
	report("this process alone", time.Since(start))
	if alone.Symbols != totals.Symbols {
		return fmt.Errorf("the results differ: %v here", alone.Symbols)
	}
	fmt.Fprintln(out, "verified")
	return nil
}

// inWorkers adds the table up in workers, each of which gets the next batch when it can take one.
func inWorkers(ctx context.Context, o options, t table) (all totals, err error) {
	arena := ipc.NewArena(ipc.ArenaOptions{Limit: o.arena})
	parts := make([]totals, o.workers)
	g, ctx := errgroup.WithContext(ctx)
	for i := range parts {
		g.Go(func() (err error) {
			if o.driver == shm.Name {
				parts[i], err = inWorker(ctx, shm.Driver{}, arena, &t, i, o.workers)
			} else {
				parts[i], err = inWorker(ctx, socket.Driver{}, arena, &t, i, o.workers)
			}
			return err
		})
	}
	err = g.Wait()
	for i := range parts {
		all.add(&parts[i])
	}
	return all, err
}

// inWorker sends every step-th batch from first on to a worker, and returns what it says.
func inWorker[C drivers.Channel](ctx context.Context, driver drivers.Driver[C], arena *ipc.Arena, t *table, first, step int) (sum totals, err error) {
	w, err := worker.Spawn(ctx, worker.Self(workerName), driver)
	if err != nil {
		return sum, err
	}
	defer w.Close()
	stream, err := Aggregate.Open(ctx, w)
	if err != nil {
		return sum, err
	}
	defer stream.Close()
	sender, err := arrowipc.NewSender(arena, schema, stream)
	if err != nil {
		return sum, err
	}
	defer sender.Close()
	make := newMaker()
	defer make.close()
	for i := first; i < t.batches; i += step {
		rec := make.batch(i)
		err := sender.Send(ctx, rec) // waits while the arena is full
		rec.Release()
		if err == io.EOF {
			break // the worker takes no more; the answer says why
		}
		if err != nil {
			return sum, err
		}
	}
	return stream.CloseAndReceive(ctx)
}

func inThisProcess(t table) (sum totals) {
	make := newMaker()
	defer make.close()
	for i := range t.batches {
		rec := make.batch(i)
		sum.addBatch(rec)
		rec.Release()
	}
	return sum
}
