// Detached keeps notes in a worker that outlives the programs that talk to it.
//
//	go run ./examples/detached start         starts the worker, and exits
//	go run ./examples/detached call hello    attaches to it, adds a note, and leaves it
//	go run ./examples/detached call world
//	go run ./examples/detached stop          attaches to it, and ends it
//
// A file holds the reference by which the next program finds the worker; -ref before the
// command names another file. If nobody calls the worker for ten minutes, it ends by
// itself. Attaching needs Linux.
//
// When the program exits, go run removes the file that it has built. The worker runs the
// same file and goes on without it. On Linux worker.Self names the running program
// itself, so a start needs no file either; on other systems build the program first.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Note adds a note, and returns all that the worker has.
var Note = ipc.NewMethod[string, []string]("note")

func main() {
	worker.Main("notes", serve) // in the worker's process this does not return

	log.SetFlags(0)
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: detached [-ref FILE] start | call TEXT | stop")
		flag.PrintDefaults()
	}
	file := flag.String("ref", filepath.Join(os.TempDir(), "detached.ref"), "where the worker's reference is kept")
	flag.Parse()
	ctx := context.Background()
	var err error
	switch command := flag.Arg(0); {
	case command == "start" && flag.NArg() == 1:
		err = start(ctx, *file)
	case command == "call" && flag.NArg() > 1:
		err = call(ctx, *file, strings.Join(flag.Args()[1:], " "))
	case command == "stop" && flag.NArg() == 1:
		err = stop(ctx, *file)
	default:
		flag.Usage()
		os.Exit(2)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// start starts the worker, leaves it to itself, and writes to a file how to find it.
func start(ctx context.Context, file string) (err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("%w: stop the worker that it names first", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(file)
		}
	}()
	w, err := worker.Spawn(ctx, worker.Self("notes"), socket.Driver{
		Detached:     true,
		OnDisconnect: socket.KeepAlive, // also if a host is killed before it can detach
		HostTimeout:  10 * time.Minute,
		SecondHost:   socket.Queue, // hosts that come at the same time take turns
	})
	if err != nil {
		return err
	}
	if _, err := f.WriteString(w.Channel().Ref().String()); err != nil {
		w.Close() // ends the worker: nobody could find it
		return err
	}
	ref, err := w.Channel().Detach()
	if err != nil {
		w.Close()
		return err
	}
	fmt.Printf("worker %d keeps notes; its reference is in %s\n", ref.PID, file)
	return w.Close() // the worker was left, so this only frees
}

// call makes a call, as a host of its own, and leaves the worker to the next one.
func call(ctx context.Context, file, text string) error {
	w, err := attach(ctx, file)
	if err != nil {
		return err
	}
	notes, err := Note.Call(ctx, w, text)
	if err == nil {
		fmt.Printf("worker %d has %q\n", w.PID(), notes)
	}
	_, left := w.Channel().Detach() // without it Close would end the worker
	return errors.Join(err, left, w.Close())
}

// stop ends the worker.
func stop(ctx context.Context, file string) error {
	w, err := attach(ctx, file)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	fmt.Printf("worker %d has ended\n", w.PID())
	return os.Remove(file)
}

// attach takes over the worker that a file names. It removes the file if there is
// no such worker any more.
func attach(ctx context.Context, file string) (*worker.Client[*socket.Channel], error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: start a worker first", err)
	}
	ref, err := socket.ParseRef(string(text))
	if err != nil {
		return nil, err
	}
	w, err := worker.Attach(ctx, ref, socket.Connect{})
	if errors.Is(err, socket.ErrStale) {
		err = fmt.Errorf("the worker has ended by itself, or was killed; start another one: %w", errors.Join(err, os.Remove(file)))
	}
	return w, err
}

func serve() error {
	var mu sync.Mutex
	var notes []string
	s := worker.NewServer()
	worker.Handle(s, Note, func(_ context.Context, text string) ([]string, error) {
		mu.Lock()
		defer mu.Unlock()
		notes = append(notes, text)
		return append([]string(nil), notes...), nil // which is encoded without the lock
	})
	return s.Serve(context.Background())
}
