//go:build unix

package pool_test

import (
	"context"
	"fmt"
	"log"
	"slices"
	"strings"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// CountWords is the contract between host and workers. Counting twice does no
// harm, so the pool may do so when a worker dies.
var CountWords = ipc.NewMethod[string, int]("text.count_words", ipc.WithIdempotent())

// serveText is what main runs in the workers: worker.Main("text", serveText).
func serveText() error {
	s := worker.NewServer()
	worker.Handle(s, CountWords, func(_ context.Context, text string) (int, error) {
		return len(strings.Fields(text)), nil
	})
	return s.Serve(context.Background())
}

// A pool starts with two workers, and may grow to four while calls wait. One
// that dies is replaced, and what it had not answered is done by another.
func ExampleNew() {
	ctx := context.Background()
	p, err := pool.New(ctx, 2, worker.Self("text"), shm.Driver{},
		pool.WithMaxSize(4), pool.WithConcurrency(1), pool.WithWorkers(worker.WithRetry(3)))
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	n, err := CountWords.Call(ctx, p, "calls go to the least busy worker")
	fmt.Println(n, err)
	n, err = CountWords.Call(ctx, p.For("alice"), "the calls for Alice go to one worker")
	fmt.Println(n, err)
	fmt.Println(p.Stats().Calls, "calls on", p.Stats().Size, "workers")
	// Output:
	// 7 <nil>
	// 8 <nil>
	// 2 calls on 2 workers
}

// Replace is a hot upgrade: calls go on while all workers are replaced by ones
// that run another program.
func ExamplePool_Replace() {
	ctx := context.Background()
	p, err := pool.New(ctx, 2, worker.Self("text"), shm.Driver{})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	newer := worker.Self("text") // such as exec.Command("./counter-v2")
	if err := p.Replace(ctx, newer); err != nil {
		log.Fatal(err) // and the pool goes on with the old program
	}
	n, err := CountWords.Call(ctx, p, "counted by the new program")
	fmt.Println(n, err)
	// Output: 5 <nil>
}

// Map runs a method over a sequence, several calls at a time, and keeps the order.
func ExampleMap() {
	ctx := context.Background()
	p, err := pool.New(ctx, 2, worker.Self("text"), shm.Driver{})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	lines := slices.Values([]string{"one", "two words", "three more words"})
	for n, err := range pool.Map(ctx, p, CountWords, lines) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(n)
	}
	// Output:
	// 1
	// 2
	// 3
}
