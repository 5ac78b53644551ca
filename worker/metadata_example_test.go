//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"log"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Greet is the contract between host and worker.
var Greet = ipc.NewMethod[string, string]("hello.greet")

func init() { entries["greeter"] = serveGreeter }

// serveGreeter is what main runs in the worker: worker.Main("greeter", serveGreeter).
func serveGreeter() error {
	s := worker.NewServer()
	worker.Handle(s, Greet, func(ctx context.Context, name string) (string, error) {
		if err := ipc.SetTrailer(ctx, "cache", "miss"); err != nil {
			return "", err
		}
		switch language := ipc.MetadataOf(ctx).Get("language"); language {
		case "", "en":
			return "Hello, " + name, nil
		case "eo":
			return "Saluton, " + name, nil
		default:
			return "", ipc.NewError(ipc.CodeNotFound, "no greeting in "+language)
		}
	})
	return s.Serve(context.Background())
}

// Metadata goes with the request, and comes with the answer, also if that is an error.
func Example_metadata() {
	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("greeter"), shm.Driver{})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()

	var trailer ipc.Metadata
	for _, language := range []string{"eo", "tlh"} {
		greeting, err := Greet.Call(ctx, w, "Zamenhof", ipc.WithMetadata("language", language), ipc.WithTrailer(&trailer))
		fmt.Printf("%q, %v, cache %s\n", greeting, err, trailer.Get("cache"))
	}
	// Output:
	// "Saluton, Zamenhof", <nil>, cache miss
	// "", not_found: no greeting in tlh, cache miss
}

// An interceptor of the host's is around each call: it counts how they end.
func ExampleWithInterceptors() {
	ends := make(map[string]int)
	count := func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
		err := next(ctx)
		if err == nil {
			ends[call.Method.Name+" ok"]++
		} else {
			ends[call.Method.Name+" "+ipc.CodeOf(err).String()]++
		}
		return err
	}
	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("greeter"), shm.Driver{}, worker.WithInterceptors(ipc.Interceptor{Call: count}))
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	for _, language := range []string{"en", "eo", "tlh"} {
		_, _ = Greet.Call(ctx, w, "you", ipc.WithMetadata("language", language))
	}
	fmt.Println(ends)
	// Output:
	// map[hello.greet not_found:1 hello.greet ok:2]
}
