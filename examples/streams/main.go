// Streams reads a log file in a worker. Its lines come as they are written, and patterns go the
// other way.
//
//	go run ./examples/streams            # follows a file that it writes itself
//	go run ./examples/streams FILE       # follows FILE for five lines
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Line is a line of a file.
type Line struct {
	Number int
	Text   string
}

// The contract that both sides share.
var (
	// Tail sends the lines of a file, and then those that are written to it.
	Tail = ipc.NewServerStream[string, Line]("log.tail")
	// Grep takes patterns, and sends the lines of one file in which they are.
	Grep = ipc.NewBidiStream[Pattern, Line]("log.grep")
)

// Pattern is what to look for in a file.
type Pattern struct{ Path, Text string }

func main() {
	worker.Main("streams", serve) // in the worker's process this does not return
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func serve() error {
	s := worker.NewServer()
	worker.HandleServerStream(s, Tail, tail)
	worker.HandleBidiStream(s, Grep, grep)
	return s.Serve(context.Background())
}

// shown is how many lines the example follows.
const shown = 5

func run(ctx context.Context) error {
	w, err := worker.Spawn(ctx, worker.Self("streams"), shm.Driver{})
	if err != nil {
		return err
	}
	defer w.Close()
	var path string
	if len(os.Args) > 1 {
		path = os.Args[1]
	} else {
		dir, err := os.MkdirTemp("", "tandem-streams-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		path = filepath.Join(dir, "app.log")
		go write(path)
	}

	fmt.Println("lines as they are written:")
	for line, err := range Tail.Stream(ctx, w, path) {
		if err != nil {
			return err
		}
		fmt.Printf("%3d %s\n", line.Number, line.Text)
		if line.Number == shown {
			break // which ends the handler's context, and so the handler
		}
	}

	fmt.Println("lines with warn, then with info:")
	st, err := Grep.Open(ctx, w)
	if err != nil {
		return err
	}
	defer st.Close()
	for _, text := range []string{"warn", "info"} {
		if err := st.Send(ctx, Pattern{path, text}); err != nil {
			return err
		}
	}
	if err := st.CloseSend(ctx); err != nil {
		return err
	}
	for line, err := range st.All(ctx) {
		if err != nil {
			return err
		}
		fmt.Printf("%3d %s\n", line.Number, line.Text)
	}
	return nil
}

// write writes a log, one line after the other.
func write(path string) {
	f, err := os.Create(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	for i := range shown {
		level := []string{"info", "warn"}[i%2]
		fmt.Fprintf(f, "%s: request %d took %d ms\n", level, i+1, 10+90*(i%2))
		time.Sleep(20 * time.Millisecond)
	}
}

// tail runs in the worker. It ends with its context: when the host leaves its loop, or is gone.
func tail(ctx context.Context, path string, out *ipc.Sender[Line]) error {
	f, err := open(ctx, path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, text := bufio.NewReader(f), ""
	for n := 1; ; {
		part, err := r.ReadString('\n')
		if text += part; err == nil {
			// Send waits if the host does not keep up.
			if err := out.Send(ctx, Line{n, strings.TrimSuffix(text, "\n")}); err != nil {
				return err
			}
			n, text = n+1, ""
			continue
		}
		if err != io.EOF {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// open opens a file, when it is there.
func open(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.Open(path)
		if !os.IsNotExist(err) {
			return f, err
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Millisecond):
		return nil
	}
}

// grep runs in the worker. It ends when the host sends no further patterns.
func grep(ctx context.Context, in *ipc.Receiver[Pattern], out *ipc.Sender[Line]) error {
	for pattern, err := range in.All(ctx) {
		if err != nil {
			return err
		}
		if err := match(ctx, pattern, out); err != nil {
			return err
		}
	}
	return nil
}

func match(ctx context.Context, p Pattern, out *ipc.Sender[Line]) error {
	f, err := os.Open(p.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if strings.Contains(lines.Text(), p.Text) {
			if err := out.Send(ctx, Line{n, lines.Text()}); err != nil {
				return err
			}
		}
	}
	return lines.Err()
}
