// Socketonly is a worker that does not link the shm driver.
package main

import (
	"context"
	"os"

	"github.com/tandemipc/tandem/worker"
)

func main() {
	if err := worker.NewServer().Serve(context.Background()); err != nil {
		os.Exit(1)
	}
}
