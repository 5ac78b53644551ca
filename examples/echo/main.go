// Echo is the smallest use of Tandem: one program that is host and worker.
//
//	go run ./examples/echo
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Echo is the contract that both sides share.
var Echo = ipc.NewMethod[string, string]("echo")

func main() {
	worker.Main("echo", serve) // in the worker's process this does not return

	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("echo"), shm.Driver{})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	answer, err := Echo.Call(ctx, w, "hello, worker")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer)
}

func serve() error {
	s := worker.NewServer()
	worker.Handle(s, Echo, func(_ context.Context, message string) (string, error) { return message, nil })
	return s.Serve(context.Background())
}
