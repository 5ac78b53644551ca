package worker_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
)

// A detached worker outlives its host, and serves another one. Both are one process
// here; the program in examples/detached has them apart.
func ExampleAttach() {
	ctx := context.Background()
	first, err := worker.Spawn(ctx, worker.Self("text"), socket.Driver{Detached: true, HostTimeout: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	ref, err := first.Channel().Detach() // the worker waits for the next host, for a minute
	if err != nil {
		log.Fatal(err)
	}
	first.Close()        // which only frees
	text := ref.String() // one word, to be kept in a file or sent

	if ref, err = socket.ParseRef(text); err != nil {
		log.Fatal(err)
	}
	second, err := worker.Attach(ctx, ref, socket.Connect{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the same process:", second.PID() == first.PID())
	n, err := CountWords.Call(ctx, second, "counted for another host")
	fmt.Println(n, err)
	fmt.Println(second.Close()) // without Detach this ends the worker
	// Output:
	// the same process: true
	// 4 <nil>
	// <nil>
}
