// Benthos is the stream processor of that name with one more processor, "tandem", which runs batches of
// messages through worker processes. What it takes are the engine's own commands and configurations:
//
//	go run . run config/logs.yaml       # parses log lines in workers
//	go run . lint config/logs.yaml
//	go run . create stdin/tandem/stdout # prints a configuration with all fields
//	go run . bench                      # compares with the engine's processor "subprocess"
//
// The workers of the configuration are this program again (worker.Self). A program of workers alone needs no more than
// what parse.go has.
package main

import (
	"context"
	"fmt"
	"os"

	_ "github.com/redpanda-data/benthos/v4/public/components/io"
	_ "github.com/redpanda-data/benthos/v4/public/components/pure"
	"github.com/redpanda-data/benthos/v4/public/service"

	_ "github.com/tandemipc/tandem/examples/benthos/processor"
	"github.com/tandemipc/tandem/worker"
)

// workerName tells the worker's process what it is, and is the value of the field self.
const workerName = "demo"

func main() {
	worker.Main(workerName, serve) // in a worker's process this does not return
	if len(os.Args) == 2 {
		var err error
		switch os.Args[1] {
		case "bench":
			err = bench(os.Stdout, thorough)
		case linesCommand:
			err = lines(os.Stdin, os.Stdout, os.Stderr)
		default:
			service.RunCLI(context.Background())
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "benthos:", err)
			os.Exit(1)
		}
		return
	}
	service.RunCLI(context.Background())
}
