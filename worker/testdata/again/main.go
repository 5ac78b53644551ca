// Again is a host that starts its own program as a worker, and does not find out that
// it is the worker then.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	f, err := os.OpenFile(os.Getenv("RUNS"), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString("run\n"); err != nil {
		return err
	}
	ctx := context.Background()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	switch os.Args[1] {
	case "one":
		_, err = worker.Start(ctx, exec.Command(self, os.Args[1:]...))
	case "pool":
		_, err = pool.New(ctx, 4, exec.Command(self, os.Args[1:]...), socket.Driver{})
	case "other": // with arguments that are never the same
		_, err = worker.Start(ctx, exec.Command(self, append(os.Args[1:], "x")...))
	case "self":
		cmd := worker.Self("entry")
		cmd.Args = append(cmd.Args, "self")
		_, err = worker.Start(ctx, cmd)
	}
	return err
}
