// Host starts a worker that is another program, and calls it.
//
//	go build -o bin/worker ./examples/twobinaries/worker
//	go run ./examples/twobinaries/host -worker bin/worker [-driver shm|socket]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/examples/twobinaries/contract"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

func main() {
	log.SetFlags(0)
	path := flag.String("worker", "", "the worker's program; by default the file worker beside this program")
	driver := flag.String("driver", "shm", "shm or socket")
	flag.Parse()

	var err error
	switch *driver {
	case "shm":
		err = run(*path, shm.Driver{})
	case "socket":
		err = run(*path, socket.Driver{})
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
func run[C drivers.Channel](path string, driver drivers.Driver[C]) error {
	program, err := find(path)
	if err != nil {
		return err
	}
	ctx := context.Background()
	shop := contract.Shop{Currency: "EUR", Items: map[string]contract.Item{"tandem": {Cents: 129900, Stock: 3}}}
	w, err := worker.Spawn(ctx, exec.Command(program), driver, worker.WithData(shop))
	if err != nil {
		return err
	}
	if err := visit(ctx, w); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}

// find returns the path of the worker's program.
func find(path string) (string, error) {
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		path = filepath.Join(filepath.Dir(self), "worker")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, err := exec.LookPath(path); err != nil {
		return "", fmt.Errorf("no worker: %w\nbuild it and name it:\n"+
			"\tgo build -o bin/worker ./examples/twobinaries/worker\n"+
			"\tgo run ./examples/twobinaries/host -worker bin/worker", err)
	}
	return path, nil
}

// visit calls the worker in several ways.
func visit(ctx context.Context, w ipc.Caller) error {
	// A struct goes and a struct comes.
	price, err := contract.Quote.Call(ctx, w, contract.Order{Item: "tandem", Quantity: 2})
	if err != nil {
		return err
	}
	fmt.Printf("two cost %.2f %s\n", float64(price.Cents)/100, price.Currency)

	// A registered error is the same on both sides.
	_, err = contract.Quote.Call(ctx, w, contract.Order{Item: "unicycle", Quantity: 1})
	fmt.Printf("errors.Is(err, ErrUnknownItem) is %t, the code %v: %v\n",
		errors.Is(err, contract.ErrUnknownItem), ipc.CodeOf(err), err)

	// Other errors have a code for programs and details, too.
	_, err = contract.Quote.Call(ctx, w, contract.Order{Item: "tandem", Quantity: 9})
	var e *ipc.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("nine were sold, or worse: %w", err)
	}
	fmt.Printf("the worker said %v, with stock %s\n", e.Code, e.Details["stock"])

	// A call can have a timeout of its own. The handler's context ends with it.
	slow := contract.Inspection{Item: "tandem", Takes: time.Minute}
	_, err = contract.Inspect.Call(ctx, w, slow, ipc.WithTimeout(50*time.Millisecond))
	fmt.Printf("errors.Is(err, DeadlineExceeded) is %t: %v\n", errors.Is(err, context.DeadlineExceeded), err)

	// And the worker works on.
	slow.Takes = time.Millisecond
	stock, err := contract.Inspect.Call(ctx, w, slow)
	if err != nil {
		return err
	}
	fmt.Printf("there are %d\n", stock)
	return nil
}
