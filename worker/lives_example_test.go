//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// CountWords is the contract between host and workers. Counting twice does no
// harm, so it may be done again when a worker dies.
var CountWords = ipc.NewMethod[string, int]("text.count_words", ipc.WithIdempotent())

// serveText is what main runs in the workers: worker.Main("text", serveText).
func serveText() error {
	s := worker.NewServer()
	worker.Handle(s, CountWords, func(_ context.Context, text string) (int, error) {
		return len(strings.Fields(text)), nil
	})
	return s.Serve(context.Background())
}

// A worker that ends is started again, and the call that met its end is made again.
func ExampleWithRestart() {
	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("text"), shm.Driver{},
		worker.WithRestart(worker.Restart{Delay: time.Millisecond}), worker.WithRetry(3),
		worker.WithEvents(func(e worker.Event) { fmt.Println(e.Attempt, e.Kind) }))
	if err != nil {
		log.Fatal(err)
	}

	_ = w.Channel().Process().Signal(os.Kill) // as the kernel does when memory is short
	n, err := CountWords.Call(ctx, w, "answered by another process")
	if err := w.Close(); err != nil { // when it returns all events have been told
		log.Fatal(err)
	}
	fmt.Println(n, err)
	// Output:
	// 1 started
	// 1 ready
	// 1 exited
	// 2 restarting
	// 2 started
	// 2 ready
	// 2 exited
	// 4 <nil>
}

// Progress is how a worker tells its host how far it has got, in percent. Compress
// takes a while.
var (
	Progress = ipc.NewMethod[int, struct{}]("text.progress")
	Compress = ipc.NewMethod[string, string]("text.compress")
)

// serveSlowly is what main runs in the workers: worker.Main("slow", serveSlowly).
func serveSlowly() error {
	s := worker.NewServer()
	worker.Handle(s, Compress, func(ctx context.Context, text string) (string, error) {
		if err := Progress.Notify(ctx, worker.Host(ctx), 10); err != nil {
			return "", err
		}
		time.Sleep(10 * time.Millisecond)
		return text[:3] + "...", nil
	})
	return s.Serve(context.Background())
}

// A call that is pending when the connection goes gets its answer over the next one.
func ExampleWithResume() {
	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("slow"), socket.Driver{}, worker.WithResume(1<<20))
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	begun := make(chan struct{})
	worker.Handle(w, Progress, func(context.Context, int) (struct{}, error) {
		close(begun)
		return struct{}{}, nil
	})

	done := make(chan struct{})
	go func() {
		defer close(done)
		fmt.Println(Compress.Call(ctx, w, "a long story"))
	}()
	<-begun
	_ = w.Channel().Disconnect()
	if err := w.Channel().Reconnect(ctx); err != nil {
		log.Fatal(err)
	}
	<-done
	// Output: a l... <nil>
}

// Upper turns text into capitals.
var Upper = ipc.NewMethod[[]byte, []byte]("text.upper", ipc.WithCodec(ipc.Raw))

// serveUpper is what main runs in the workers: worker.Main("upper", serveUpper).
func serveUpper() error {
	s := worker.NewServer()
	worker.HandleInPlace(s, Upper, func(_ context.Context, call worker.InPlace) error {
		text := call.Request() // where it lies
		out, err := call.Claim(len(text))
		if err != nil {
			return err
		}
		for i, c := range text {
			if 'a' <= c && c <= 'z' {
				c -= 'a' - 'A'
			}
			out[i] = c
		}
		return nil
	})
	return s.Serve(context.Background())
}

// With shared memory the handler reads and writes in the rings themselves, and
// CallInto uses its memory again, so that nothing is allocated for a call.
func ExampleHandleInPlace() {
	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("upper"), shm.Driver{})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()

	var answer []byte
	for _, text := range []string{"one", "after", "another"} {
		if err := Upper.CallInto(ctx, w, []byte(text), &answer); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", answer)
	}
	// Output:
	// ONE
	// AFTER
	// ANOTHER
}

func init() {
	entries["slow"] = serveSlowly
	entries["upper"] = serveUpper
}
