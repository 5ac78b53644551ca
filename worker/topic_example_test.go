//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Price is a record of the topic Prices.
type Price struct {
	Symbol string
	Cents  int
}

// Prices is the contract between host and worker.
var Prices = ipc.NewTopic[Price]("example.prices", ipc.LatestBy(func(p Price) string { return p.Symbol }))

// Watch makes a worker subscribe to the prices of its host, and returns what it has seen.
var Watch = ipc.NewMethod[int, []string]("example.watch")

func init() { entries["exchange"] = serveExchange }

// serveExchange is what main runs in the worker: worker.Main("exchange", serveExchange).
func serveExchange() error {
	s := worker.NewServer()
	worker.Handle(s, Watch, func(ctx context.Context, _ int) (seen []string, err error) {
		for price, err := range Prices.Subscribe(ctx, worker.Host(ctx), ipc.FromLatest()) {
			var lost *ipc.LostError
			if errors.As(err, &lost) {
				seen = append(seen, fmt.Sprint(lost.Count, " lost"))
				continue
			}
			if err != nil {
				return nil, err
			}
			seen = append(seen, fmt.Sprint(price.Symbol, " ", price.Cents))
		}
		return seen, nil // the publisher was closed
	})
	return s.Serve(context.Background())
}

// A host publishes prices to its workers. One that comes late begins with the latest of each symbol.
func Example_topics() {
	ctx := context.Background()
	var handlers worker.Handlers // of all clients that are to subscribe
	prices, err := Prices.Publisher(&handlers, ipc.Keep(100))
	if err != nil {
		log.Fatal(err)
	}
	w, err := worker.Spawn(ctx, worker.Self("exchange"), shm.Driver{}, worker.WithHandlers(&handlers))
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()

	publish := func(symbol string, cents int) {
		if err := prices.Publish(ctx, Price{symbol, cents}); err != nil {
			log.Fatal(err)
		}
	}
	publish("ACME", 1000)
	publish("HOOLI", 2000)
	publish("ACME", 1005)

	watching, err := Watch.Go(ctx, w, 0)
	if err != nil {
		log.Fatal(err)
	}
	for prices.Stats().Subscribers == 0 { // only so that the example always prints the same
		time.Sleep(time.Millisecond)
	}
	publish("HOOLI", 1990)
	prices.Close()

	seen, err := watching.Wait(ctx)
	fmt.Println(seen, err)
	// Output: [HOOLI 2000 ACME 1005 HOOLI 1990] <nil>
}
