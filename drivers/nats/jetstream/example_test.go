package jetipc_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	jetipc "github.com/tandemipc/tandem/drivers/nats/jetstream"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// Length is a stage's method: its workers may be a pool here, or a service elsewhere (natsipc.Caller).
var Length = ipc.NewMethod[string, int]("text.length")

// A pipeline from one stream into another one. Any number of processes may run it at the same time.
func Example() {
	ctx := context.Background()
	js, stop := exampleServer()
	defer stop()
	for _, name := range []string{"lines", "lengths"} {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Retention: jetstream.WorkQueuePolicy})
		check(err)
	}
	for _, line := range []string{"to be", "or", "not to be"} {
		_, err := js.Publish(ctx, "lines", []byte(line))
		check(err)
	}

	s := worker.NewServer()
	pipeline.Handle(s, Length, func(_ context.Context, line string) (int, error) { return len(line), nil })
	workers, err := worker.Local(s)
	check(err)
	defer workers.Close()

	consumer, err := js.CreateOrUpdateConsumer(ctx, "lines", jetstream.ConsumerConfig{Durable: "measure", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000})
	check(err)
	source, err := jetipc.NewSource[[]byte](ctx, js, consumer, jetipc.Decode(ipc.Raw), jetipc.Drain())
	check(err)
	sink, err := jetipc.NewSink[int](ctx, js, "lengths", source.Origin(), jetipc.Encode(ipc.JSON))
	check(err)
	defer sink.Close()
	lines := pipeline.Apply(pipeline.FromNumbered(source), "text", func(_ context.Context, b []byte) (string, error) { return string(b), nil })
	check(pipeline.Through(lines, Length, workers, pipeline.Ordered()).Into(ctx, sink))

	out, err := js.CreateOrUpdateConsumer(ctx, "lengths", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	check(err)
	batch, err := out.Fetch(3)
	check(err)
	for m := range batch.Messages() {
		fmt.Println(strings.TrimSpace(string(m.Data())))
	}
	// Output:
	// 5
	// 2
	// 9
}

// Prices is a topic: its stream keeps the records.
var Prices = ipc.NewTopic[Price]("market.prices", ipc.LatestBy(func(p Price) string { return p.Symbol }))

// Price is a record of it.
type Price struct {
	Symbol string
	Cents  int
}

// A subscriber that begins with the latest record of each key.
func ExampleSubscribe() {
	ctx := context.Background()
	js, stop := exampleServer()
	defer stop()
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "prices", Subjects: []string{"prices.>"}, MaxMsgsPerSubject: 100})
	check(err)
	pub, err := jetipc.NewPublisher(ctx, js, "prices", Prices)
	check(err)
	for _, p := range []Price{{"A", 100}, {"B", 200}, {"A", 110}} {
		check(pub.Publish(ctx, p))
	}
	var latest []string
	for p, err := range jetipc.Subscribe(ctx, js, "prices", Prices, jetipc.FromLatest()) {
		check(err)
		if latest = append(latest, fmt.Sprint(p.Symbol, " ", p.Cents)); len(latest) == 2 {
			break
		}
	}
	slices.Sort(latest)
	fmt.Println(latest)
	// Output: [A 110 B 200]
}

// exampleServer runs a NATS server in this process, and connects to it.
func exampleServer() (jetstream.JetStream, func()) {
	dir, err := os.MkdirTemp("", "jetipc")
	check(err)
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: dir})
	check(err)
	srv.Start()
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.ReconnectBufSize(-1))
	check(err)
	js, err := jetstream.New(nc)
	check(err)
	return js, func() {
		nc.Close()
		srv.Shutdown()
		srv.WaitForShutdown()
		_ = os.RemoveAll(dir)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
