package natsipc_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// The contract, which both sides import.
var Greet = ipc.NewMethod[string, string]("example.greet")

// A server's handlers answer calls that come over NATS. Here both sides, and NATS, are one process.
func Example() {
	broker, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true})
	if err != nil {
		log.Fatal(err)
	}
	broker.Start()
	defer broker.Shutdown()
	if !broker.ReadyForConnections(10 * time.Second) {
		log.Fatal("no NATS")
	}
	nc, err := nats.Connect(broker.ClientURL())
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()

	s := worker.NewServer()
	worker.Handle(s, Greet, func(_ context.Context, name string) (string, error) { return "hello, " + name, nil })
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- natsipc.Serve(ctx, nc, s, natsipc.Service{Name: "greeter", Version: "1.0.0"}) }()

	c := natsipc.Caller(nc, "greeter") // on any other machine
	defer c.Close()
	for { // it may not serve yet
		greeting, err := Greet.Call(ctx, c, "world")
		if ipc.CodeOf(err) == ipc.CodeUnavailable {
			time.Sleep(time.Millisecond)
			continue
		}
		fmt.Println(greeting, err)
		break
	}
	subject, _ := micro.ControlSubject(micro.PingVerb, "greeter", "")
	_, err = nc.Request(subject, nil, 10*time.Second) // as the tools for micro services do
	fmt.Println("found:", err == nil)

	stop()
	fmt.Println(<-served)
	// Output:
	// hello, world <nil>
	// found: true
	// <nil>
}
