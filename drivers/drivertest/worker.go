package drivertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// suiteName marks scripts of this suite, and guards against a test binary that
// starts itself as a worker of another kind and comes here by mistake.
const suiteName = "drivertest"

// codecName is what workers of the suite speak unless a case wants a mismatch.
const codecName = "raw"

// script is what a worker is told to do. It crosses as user data.
type script struct {
	Suite string `cbor:"suite"`
	// Do names the behaviour, an entry of behaviours or of openings.
	Do string `cbor:"do"`
	// N frames of Size bytes, or of any size up to it if Random.
	N      int  `cbor:"n"`
	Size   int  `cbor:"size"`
	Random bool `cbor:"random"`
	// Hold: begin when told so on stdin.
	Hold bool `cbor:"hold"`
	// Then is how it ends: "" to serve until the host ends the link, or "exit",
	// "kill" or "close". With Ask, it ends so when told on stdin.
	Then string `cbor:"then"`
	Ask  bool   `cbor:"ask"`
	// Goroutines that answer; 0 means the reader itself.
	Goroutines int `cbor:"goroutines"`
	// Codec and MaxMessage of the worker's hello, where not the usual.
	Codec      string `cbor:"codec"`
	MaxMessage int    `cbor:"max_message"`
	// Text is a reason or a last word.
	Text string `cbor:"text"`
}

// Methods of the worker that reconnects. It echoes any other.
const (
	methodCounted = 1<<63 + iota // is counted, over all links, and not answered
	methodCount                  // asks for the count, which comes as the tx
)

// Exit codes of the worker side.
const (
	exitAsked    = 3  // the script said so
	exitMismatch = 4  // Accept failed with a MismatchError
	exitFailed   = 9  // something was not as it must be; stderr says what
	exitHung     = 99 // the watchdog
)

// lastWords is what a worker says before it exits because its script says so.
const lastWords = "that was all from this worker"

// A worker is the worker's side of one case.
type worker struct {
	script
	startup  *drivers.StartupData
	endpoint drivers.Endpoint
	link     drivers.Link
	stdin    *bufio.Reader
}

// openings are what workers do instead of accepting a link.
var openings = map[string]func(*worker) error{
	"silent":     func(w *worker) error { w.listen(); return nil },
	"exit-early": func(w *worker) error { fmt.Fprintln(os.Stderr, "first line\n"+w.Text); os.Exit(exitAsked); return nil },
	"refuse":     func(w *worker) error { return w.startup.Refuse(w.Text) },
	"protocol":   func(w *worker) error { return w.sayHello(func(h *drivers.Hello) { h.Protocol += 1000 }) },
	"layout":     func(w *worker) error { return w.sayHello(func(h *drivers.Hello) { h.Layout += 1000 }) },
	"garbage":    (*worker).sayGarbage,
	"host-protocol": func(w *worker) error {
		return w.acceptFrom(func(h *drivers.Hello) { h.Protocol += 1000 })
	},
	"host-layout": func(w *worker) error { return w.acceptFrom(func(h *drivers.Hello) { h.Layout += 1000 }) },
	"host-driver": func(w *worker) error { return w.acceptFrom(func(h *drivers.Hello) { h.Driver = "pigeon" }) },
}

// behaviours are what workers do with a link.
var behaviours = map[string]func(*worker) error{
	"mirror":       (*worker).mirror,
	"echo":         (*worker).echo,
	"sink":         (*worker).sink,
	"source":       (*worker).source,
	"large":        (*worker).large,
	"peer":         (*worker).reportPeer,
	"oversize":     (*worker).oversize,
	"accept-again": (*worker).acceptAgain,
	"reconnect":    (*worker).reconnect,
}

// work runs the worker's side and returns the exit code of the process.
func work(s *drivers.StartupData, err error) int {
	ignoreBrokenPipes()
	time.AfterFunc(2*watchdog, func() {
		fmt.Fprintf(os.Stderr, "worker hangs:\n%s\n", stacks())
		os.Exit(exitHung)
	})
	if err == nil {
		err = run(s)
	}
	var mismatch *ipc.MismatchError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &mismatch):
		fmt.Fprintln(os.Stderr, err)
		return exitMismatch
	}
	fmt.Fprintln(os.Stderr, "worker failed:", err)
	return exitFailed
}

func run(s *drivers.StartupData) error {
	w := &worker{startup: s, stdin: bufio.NewReader(os.Stdin)}
	if err := s.Data(&w.script); err != nil {
		return err
	}
	if w.Suite != suiteName {
		return fmt.Errorf("started as a worker of %s by someone else", suiteName)
	}
	if opening, ok := openings[w.Do]; ok {
		return opening(w)
	}
	behave, ok := behaviours[w.Do]
	if !ok {
		return fmt.Errorf("script to do %q", w.Do)
	}
	a, ok := drivers.Find(s.Driver)
	if !ok {
		return fmt.Errorf("driver %q is not linked in, only %v", s.Driver, drivers.Names())
	}
	var err error
	if w.endpoint, err = a.Open(s, slog.Default()); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if w.link, err = w.accept(); err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	if err := behave(w); err != nil {
		return err
	}
	if err := w.link.Close(); err != nil {
		return fmt.Errorf("close the link: %w", err)
	}
	return w.endpoint.Close()
}

func (w *worker) accept() (drivers.Link, error) {
	h := drivers.Hello{Codec: codecName, MaxMessage: w.startup.MaxMessage, Window: w.startup.Window}
	if w.Codec != "" {
		h.Codec = w.Codec
	}
	if w.MaxMessage != 0 {
		h.MaxMessage = w.MaxMessage
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // a link has to outlive the context that it was accepted under
	return w.endpoint.Accept(ctx, h)
}

// say tells the host something, one line on stdout.
func (w *worker) say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// listen returns the next line that the host wrote, "" after the last.
func (w *worker) listen() string {
	line, _ := w.stdin.ReadString('\n')
	return strings.TrimSpace(line)
}

// serve hands what arrives to fn until the host ends the link, and fails if
// the link ends in any other way.
func (w *worker) serve(fn func(drivers.Frame)) error {
	err := receiveAll(w.link, func(f drivers.Frame) {
		fn(f)
		f.Attached.Release()
	})
	if !ended(err) {
		return fmt.Errorf("link ended with %v, want ErrPeerGone or ErrDisconnected", err)
	}
	return nil
}

// ended reports whether err is how a link may end when the other side ends it.
func ended(err error) bool {
	return errors.Is(err, ipc.ErrPeerGone) || errors.Is(err, ipc.ErrDisconnected)
}

// send sends or ends the process: nobody limits it in time, so that a failure
// means that the link broke. It is quiet if the host has ended the link.
func (w *worker) send(f drivers.Frame) {
	err := w.link.Send(context.Background(), &f)
	switch {
	case err == nil:
		return
	case ended(err):
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "worker failed: send:", err)
	os.Exit(exitFailed)
}

// end ends the worker as its script says.
func (w *worker) end() error {
	if w.Ask {
		w.listen()
	}
	switch w.Then {
	case "exit":
		fmt.Fprintln(os.Stderr, lastWords)
		os.Exit(exitAsked)
	case "kill":
		fmt.Fprintln(os.Stderr, lastWords)
		killSelf()
	case "close":
		if err := w.link.Close(); err != nil {
			return fmt.Errorf("close the link: %w", err)
		}
		w.say("closed")
		w.listen() // live on, so that it is not our exit that the host sees
		return nil
	}
	return w.serve(func(drivers.Frame) {})
}
