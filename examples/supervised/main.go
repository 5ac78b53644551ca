// Supervised calls a worker that is started again whenever it ends or hangs. Kill it and
// watch: a call that was running then is made again in the next process, and takes a
// little longer.
//
//	go run ./examples/supervised [-driver shm|socket] [-every 1s] [-for 0]
//
// In another terminal, with the pid that it prints:
//
//	kill -9 PID       the worker ends at once, as by a crash
//	kill -STOP PID    the worker hangs, and the heartbeat finds out
//	kill PID          the worker ends in order, and is started again, too
//
// Ctrl-C ends both in order. If the host is killed, the worker ends within a second. If
// you kill the worker more than ten times within a minute, the host gives it up, and
// exits with status 1.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Count counts the calls that a worker has answered. It is idempotent, so a call is made
// again when its worker has ended before the answer.
var Count = ipc.NewMethod[struct{}, Answer]("count", ipc.WithIdempotent())

// Answer is the response of Count.
type Answer struct {
	PID   int   // of the process that answered
	Calls int64 // that it has answered
}

func main() {
	worker.Main("count", serve) // in the worker's process this does not return

	log.SetFlags(0)
	driver := flag.String("driver", "shm", "shm or socket")
	every := flag.Duration("every", time.Second, "time between two calls")
	limit := flag.Duration("for", 0, "end after so long; 0 is when interrupted")
	heartbeat := flag.Duration("heartbeat", time.Second, "a worker that has not been heard of for so long is killed")
	flag.Parse()
	if *every <= 0 {
		log.Fatalf("a call every %v: need more than 0", *every)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch *driver {
	case "shm":
		err = run(ctx, shm.Driver{}, *every, *limit, *heartbeat)
	case "socket":
		err = run(ctx, socket.Driver{}, *every, *limit, *heartbeat)
	default:
		fmt.Fprintf(flag.CommandLine.Output(), "unknown driver %q: use shm or socket\n", *driver)
		flag.Usage()
		os.Exit(2)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run does the same with any driver.
func run[C drivers.Channel](ctx context.Context, driver drivers.Driver[C], every, limit, heartbeat time.Duration) error {
	w, err := worker.Spawn(ctx, worker.Self("count"), driver,
		worker.WithRestart(worker.Restart{Delay: 200 * time.Millisecond}),
		worker.WithRetry(5),
		worker.WithHeartbeat(heartbeat/2, heartbeat),
		worker.WithEvents(show))
	if err != nil {
		return err
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	if err := call(ctx, w, every); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}

// call calls the worker until ctx ends.
func call(ctx context.Context, w ipc.Caller, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 1; ; n++ {
		began := time.Now()
		answer, err := Count.Call(ctx, w, struct{}{})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("call %d: %w", n, err)
		}
		say(time.Now(), answer.PID, "call %d answered after %v; this process has answered %d", n, time.Since(began).Round(time.Microsecond), answer.Calls)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// show prints what happens to the worker.
func show(e worker.Event) {
	switch e.Kind {
	case worker.EventReady:
		say(e.Time, e.PID, "ready, start %d; try: kill -9 %d", e.Attempt, e.PID)
	case worker.EventRestarting:
		say(e.Time, e.PID, "restarting in %v", e.Delay.Round(time.Millisecond))
	case worker.EventExited:
		say(e.Time, e.PID, "exited: %v", e.Err)
	default:
		say(e.Time, e.PID, "%v", e.Kind)
	}
}

// say prints a line, in one piece.
func say(at time.Time, pid int, format string, args ...any) {
	fmt.Printf("%s  %7d  %s\n", at.Format("15:04:05.000"), pid, fmt.Sprintf(format, args...))
}

func serve() error {
	s := worker.NewServer()
	var calls atomic.Int64
	worker.Handle(s, Count, func(context.Context, struct{}) (Answer, error) {
		return Answer{os.Getpid(), calls.Add(1)}, nil
	})
	return s.Serve(context.Background())
}
