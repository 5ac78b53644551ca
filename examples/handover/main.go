// Handover upgrades a web server under load, and no request fails. The host listens, and hands
// its listener to a worker, which serves HTTP. For an upgrade it starts another worker and hands
// it the same listener; then the old one takes no further connections, answers the
// requests that it has, and ends. At no time nobody listens.
//
//	go run ./examples/handover [-driver shm|socket] [-upgrades 3] [-clients 4]
//
// Meanwhile clients ask as fast as they can, some of them with a new connection for
// each request. The program exits with status 1 if one request fails.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var (
	// Serve makes a worker serve HTTP on a listener. It returns when that has begun.
	Serve = ipc.NewMethod[ipc.File, struct{}]("serve")
	// Drain makes a worker take no further connections. It returns when all requests are answered.
	Drain = ipc.NewMethod[struct{}, struct{}]("drain")
)

func main() {
	worker.Main("web", serve) // in the worker's process this does not return

	log.SetFlags(0)
	driver := flag.String("driver", "shm", "shm or socket")
	upgrades := flag.Int("upgrades", 3, "how often the worker is replaced")
	clients := flag.Int("clients", 4, "how many ask at the same time")
	flag.Parse()
	var err error
	switch *driver {
	case "shm":
		err = run(shm.Driver{}, *upgrades, *clients)
	case "socket":
		err = run(socket.Driver{}, *upgrades, *clients)
	default:
		fmt.Fprintf(flag.CommandLine.Output(), "unknown driver %q: use shm or socket\n", *driver)
		flag.Usage()
		os.Exit(2)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run does the same with any driver.
func run[C drivers.Channel](driver drivers.Driver[C], upgrades, clients int) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()

	w, err := start(ctx, driver, l)
	if err != nil {
		return err
	}
	defer func() { w.Close() }()
	load := startLoad(clients, "http://"+l.Addr().String())
	for n := range upgrades {
		if err := load.await(w.PID()); err != nil { // it has something to do
			return err
		}
		next, err := start(ctx, driver, l)
		if err != nil {
			return err
		}
		fmt.Printf("upgrade %d: worker %d serves, worker %d drains\n", n+1, next.PID(), w.PID())
		old := w
		w = next
		if _, err := Drain.Call(ctx, old, struct{}{}); err != nil {
			return err
		}
		if err := old.Close(); err != nil {
			return err
		}
	}
	if err := load.await(w.PID()); err != nil {
		return err
	}
	return load.end()
}

// start starts a worker that serves on l, which stays ours, too.
func start[C drivers.Channel](ctx context.Context, driver drivers.Driver[C], l net.Listener) (*worker.Client[C], error) {
	w, err := worker.Spawn(ctx, worker.Self("web"), driver)
	if err != nil {
		return nil, err
	}
	f, err := l.(*net.TCPListener).File() // a duplicate
	if err == nil {
		_, err = Serve.Call(ctx, w, ipc.NewFile(f))
		f.Close()
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}
