// Wordcount counts the lines, words and bytes of files, as wc does, and finds
// their most frequent words. The work is done by worker processes, to which the
// host sends the content of every file.
//
//	go run ./examples/wordcount [-driver shm|socket] [-workers N] [PATH ...]
//
// Without a PATH it counts the source tree of the Go installation. The exit
// status is 0 if all went well, 1 if a file could not be read or a worker died,
// 2 for wrong usage, and 128 and the signal's number after a signal.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
)

const (
	workerName = "wordcount"
	topWords   = 20
	ringSize   = 4 << 20 // bytes: room for all chunks in flight
)

func main() {
	worker.Main(workerName, serve) // in a worker's process this does not return

	var o options
	o.parse()
	os.Exit(status(run(o)))
}

type options struct {
	driver  string
	workers int
	paths   []string
}

// parse reads the command line, and ends the process with status 2 if it is wrong.
func (o *options) parse() {
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: wordcount [-driver shm|socket] [-workers N] [PATH ...]")
		flag.PrintDefaults()
	}
	flag.StringVar(&o.driver, "driver", shm.Name, "how the content crosses: shm or socket")
	flag.IntVar(&o.workers, "workers", runtime.GOMAXPROCS(0), "number of worker processes")
	flag.Parse()
	o.paths = flag.Args()
	var wrong string
	switch {
	case o.driver != shm.Name && o.driver != "socket":
		wrong = fmt.Sprintf("unknown driver %q: use shm or socket", o.driver)
	case o.workers < 1:
		wrong = fmt.Sprintf("%d workers: at least 1 is needed", o.workers)
	default:
		return
	}
	fmt.Fprintln(flag.CommandLine.Output(), "wordcount:", wrong)
	flag.Usage()
	os.Exit(2)
}

// errUnreadable: some files could not be read, as has been said.
var errUnreadable = errors.New("some files could not be read")

// signalError: a signal asked this process to end.
type signalError struct{ syscall.Signal }

func (e signalError) Error() string { return e.Signal.String() }

// status reports err and returns the exit status.
func status(err error) int {
	var sig signalError
	switch {
	case err == nil:
		return 0
	case err == errUnreadable:
		return 1
	case errors.As(err, &sig):
		fmt.Fprintln(os.Stderr, "wordcount:", sig)
		return 128 + int(sig.Signal)
	}
	fmt.Fprintln(os.Stderr, "wordcount:", err)
	return 1
}

// run counts and prints the result. When it returns the workers have ended.
func run(o options) error {
	ctx, stop := untilSignal(context.Background())
	defer stop()
	if len(o.paths) == 0 {
		src, err := goSource(ctx)
		if err != nil {
			return err
		}
		o.paths = []string{src}
	}
	c := newConsole()
	files, err := walk(ctx, o.paths, c.Unreadable)
	if err != nil {
		return err
	}
	var total int64
	for _, f := range files {
		total += f.size
	}

	h, ctx, err := o.start(ctx)
	if err != nil {
		return err
	}
	h.Unreadable, h.Progress = c.Unreadable, c.Progress
	c.showBar(total)
	began := time.Now()
	err = h.Count(ctx, files)
	r := report{driver: o.driver, host: h, elapsed: time.Since(began)}
	if err == nil {
		r.words, err = h.MostFrequent(ctx, topWords)
	}
	c.hideBar()
	if err := cmp.Or(err, h.Close()); err != nil {
		return err
	}
	r.unreadable = c.unreadable.Load()
	if err := r.print(os.Stdout); err != nil {
		return err
	}
	if r.unreadable > 0 {
		return errUnreadable
	}
	return nil
}

// start starts the workers. The driver's type is that of the clients; what is
// done with them is the same for all.
func (o options) start(ctx context.Context) (*Host, context.Context, error) {
	if o.driver == shm.Name {
		return start(ctx, shm.Driver{RingSize: ringSize}, o.workers)
	}
	return start(ctx, socket.Driver{}, o.workers)
}

// goSource returns the directory of the Go installation's own source.
func goSource(ctx context.Context) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("no PATH is given, and no Go installation found: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(root)), "src"), nil
}

// untilSignal returns a context that ends with a signal, and then with a
// signalError as its cause. A second signal ends the process.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			if s, ok := s.(syscall.Signal); ok {
				cancel(signalError{s})
			}
		case <-ctx.Done():
		}
	}()
	return ctx, func() { signal.Stop(signals); cancel(nil) }
}
