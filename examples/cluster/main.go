// Cluster counts the lines, words and bytes of files, as wc does, on several machines: it sends their content by calls over NATS
// to whichever machine is there. A machine is a process with a pool of local workers behind, which it calls through shared
// memory. Here all of them run on one computer, and what they share is NATS alone.
//
//	go -C examples/cluster run . [-kill] [-verify] [-machines N] [-workers N] [-nats URL] [PATH ...]
//
// Without a PATH it counts the source tree of the Go installation, and without -nats it starts a NATS server of its own. With
// -kill it kills the first machine, and all its workers, when half of the content is counted: what that had is counted
// elsewhere. With -verify it does the same in one process afterwards, and compares.
//
// The exit status is 0 if all went well, 1 if something failed or the results differ, and 2 for wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/tandemipc/tandem/worker"
)

type options struct {
	machines, workers int
	kill, verify      bool
	nats              string
	paths             []string
}

func main() {
	worker.Main(workerName, serveWorker) // in a worker's process this does not return
	machineMain()                        // nor in that of a machine

	var o options
	flag.IntVar(&o.machines, "machines", 2, "number of machines")
	flag.IntVar(&o.workers, "workers", 2, "number of worker processes of each machine")
	flag.BoolVar(&o.kill, "kill", false, "kill the first machine in the middle")
	flag.BoolVar(&o.verify, "verify", false, "do the same in one process, and compare")
	flag.StringVar(&o.nats, "nats", "", "URL of a NATS server; without it one is started")
	flag.Parse()
	o.paths = flag.Args()
	if o.machines < 1 || o.workers < 1 || o.kill && o.machines < 2 {
		fmt.Fprintln(os.Stderr, "cluster: need a machine with a worker, and with -kill another one")
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := o.run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// run counts, and prints the result.
func (o *options) run(ctx context.Context, out io.Writer) error {
	if len(o.paths) == 0 {
		root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("find the source tree of Go: %w", err)
		}
		o.paths = []string{filepath.Join(strings.TrimSpace(string(root)), "src")}
	}
	files, size, err := find(o.paths)
	if err != nil {
		return err
	}
	if o.nats == "" {
		s, err := startNATS()
		if err != nil {
			return err
		}
		defer s.WaitForShutdown()
		defer s.Shutdown()
		o.nats = s.ClientURL()
	}
	c, err := startCluster(ctx, o.nats, o.machines, o.workers)
	if err != nil {
		return err
	}
	defer c.close()
	var half func()
	if o.kill {
		half = c.machines[0].kill
	}
	began := time.Now()
	done, err := c.count(ctx, files, size, half)
	if err != nil {
		return err
	}
	took := time.Since(began)
	for _, m := range c.machines {
		state := ""
		if m.killed.Load() {
			state = ", killed"
		}
		fmt.Fprintf(out, "%s: %d pieces, %.1f MB%s\n", m.name, done.pieces[m.name], float64(done.bytes[m.name])/1e6, state)
	}
	fmt.Fprintf(out, "%d pieces were sent again; %v, %.0f MB/s\n", done.again.Load(), took.Round(time.Millisecond), float64(done.totals.Bytes)/1e6/took.Seconds())
	fmt.Fprintf(out, "%9d %9d %11d total of %d files\n", done.totals.Lines, done.totals.Words, done.totals.Bytes, len(files))
	if !o.verify {
		return nil
	}
	var want Totals
	for _, path := range files {
		if err := eachPiece(path, func(text []byte) error { want.add(countText(text)); return nil }); err != nil {
			return err
		}
	}
	if want != done.totals {
		return fmt.Errorf("one process finds something else: %+v", want)
	}
	fmt.Fprintln(out, "verified: one process finds the same")
	return nil
}

// startNATS starts a NATS server on a free port of the loopback. It takes a machine that is stopped, or cut off, out of the service within
// some four seconds; with the defaults that takes minutes.
func startNATS() (*server.Server, error) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, PingInterval: time.Second, MaxPingsOut: 2})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		s.Shutdown()
		return nil, errors.New("the NATS server does not start")
	}
	return s, nil
}
