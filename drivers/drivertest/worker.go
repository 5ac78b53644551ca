package drivertest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
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
	h := drivers.Hello{Codec: codecName, MaxMessage: w.startup.MaxMessage}
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
	err := receiveAll(w.link, fn)
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
	err := w.link.Send(context.Background(), f)
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

// mirror sends every frame back as it is.
func (w *worker) mirror() error { return w.serve(w.send) }

// echo answers requests, on as many goroutines as the script says.
func (w *worker) echo() error {
	if w.Goroutines == 0 {
		return w.serve(func(f drivers.Frame) {
			w.send(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Payload: f.Payload})
		})
	}
	work := make(chan drivers.Frame, w.Goroutines)
	var workers sync.WaitGroup
	for range w.Goroutines {
		workers.Go(func() {
			for f := range work {
				w.send(f)
			}
		})
	}
	err := w.serve(func(f drivers.Frame) {
		p := f.Payload
		if !f.Owned {
			p = append([]byte(nil), p...)
		}
		work <- drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Payload: p}
	})
	close(work)
	workers.Wait()
	return err
}

// sink counts and checks frames, and reports when the host says goodbye.
func (w *worker) sink() error {
	w.say("ready")
	if w.Hold {
		w.listen()
	}
	var got tally
	return w.serve(func(f drivers.Frame) {
		if f.Kind != drivers.KindGoodbye {
			got.received(f)
			return
		}
		report, err := ipc.CBOR.Append(nil, &got)
		if err != nil {
			report = []byte(err.Error())
		}
		w.send(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Payload: report})
	})
}

// source sends N frames, numbered by tx, and then ends as the script says.
func (w *worker) source() error {
	if w.Hold {
		w.listen()
	}
	sizes := newSizes(w.Size, w.Random)
	buf := make([]byte, w.Size)
	for i := range uint64(w.N) {
		b := buf[:sizes.next()]
		pattern(i, b)
		w.send(drivers.Frame{Kind: drivers.KindNotify, Tx: i, Payload: b})
	}
	clear(buf) // Send has left the payload when it returns
	w.say("sent")
	return w.end()
}

// large sends N small frames and one of Size bytes, and ends as the script
// says when told so, which is while the large one is on its way.
func (w *worker) large() error {
	for i := range uint64(w.N) {
		w.send(drivers.Frame{Kind: drivers.KindNotify, Tx: i, Payload: payload(i, 100)})
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		w.sendLarge()
	}()
	awaitParked("(*worker).sendLarge", 1)
	w.say("blocked")
	w.Ask = true
	err := w.end()
	<-sent
	return err
}

func (w *worker) sendLarge() {
	err := w.link.Send(context.Background(), drivers.Frame{Kind: drivers.KindNotify, Tx: uint64(w.N), Payload: payload(uint64(w.N), w.Size)})
	if err != nil && !ended(err) {
		fmt.Fprintln(os.Stderr, "worker failed: send a large frame:", err)
		os.Exit(exitFailed)
	}
}

// reportPeer says what the host said in its hello.
func (w *worker) reportPeer() error {
	b, err := json.Marshal(w.link.Peer())
	if err != nil {
		return err
	}
	w.say("%s", b)
	return w.serve(func(drivers.Frame) {})
}

// oversize tries to send a frame that is too large, reports, and goes on as a
// mirror.
func (w *worker) oversize() error {
	err := w.link.Send(context.Background(), drivers.Frame{Kind: drivers.KindNotify, Payload: make([]byte, w.Size)})
	var size *ipc.SizeError
	if !errors.As(err, &size) {
		return fmt.Errorf("send %d bytes: got error %v, want a SizeError", w.Size, err)
	}
	w.say("%d", size.Limit)
	return w.mirror()
}

// acceptAgain checks that a driver that cannot reconnect yields one link only.
func (w *worker) acceptAgain() error {
	failed := make(chan error, 1)
	go func() {
		l, err := w.accept()
		if err == nil {
			_ = l.Close()
		}
		failed <- err
	}()
	err := w.mirror()
	if again := <-failed; !errors.Is(again, ipc.ErrPeerGone) {
		return fmt.Errorf("second Accept: got error %v, want ErrPeerGone", again)
	}
	return err
}

// reconnect mirrors on one link after the other until the host says goodbye.
func (w *worker) reconnect() error {
	var counted uint64
	for {
		for {
			f, err := receive(w.link)
			if ended(err) {
				break
			}
			if err != nil {
				return fmt.Errorf("link ended with %w, want ErrPeerGone or ErrDisconnected", err)
			}
			if f.Kind == drivers.KindGoodbye {
				return nil
			}
			switch f.Method {
			case methodCounted:
				counted++
				continue
			case methodCount:
				f.Tx = counted
			}
			if err := w.link.Send(context.Background(), f); err != nil && !ended(err) {
				return fmt.Errorf("send: %w", err)
			}
		}
		if err := w.link.Close(); err != nil {
			return err
		}
		l, err := w.accept()
		if err != nil {
			return fmt.Errorf("accept again: %w", err)
		}
		w.link = l
	}
}

// hello is a hello of this worker that agrees with its host, but for edit.
func (w *worker) hello(edit func(*drivers.Hello)) ([]byte, error) {
	h := drivers.Hello{
		Protocol: drivers.ProtocolVersion, Driver: w.startup.Driver, Codec: codecName, ByteOrder: drivers.ByteOrderMark,
		MaxMessage: w.startup.MaxMessage, PID: os.Getpid(), Nonce: 1,
	}
	edit(&h)
	return drivers.AppendHello(nil, h)
}

// sayHello opens the link by hand, as a worker of another version would.
func (w *worker) sayHello(edit func(*drivers.Hello)) error {
	b, err := w.hello(edit)
	if err != nil {
		return err
	}
	return w.open(b)
}

// sayGarbage opens the link with something else than a hello.
func (w *worker) sayGarbage() error {
	return w.open([]byte("GET / HTTP/1.1\r\nHost: tandem\r\n\r\n"))
}

// open writes b where a hello belongs, and waits for the host to hang up.
func (w *worker) open(b []byte) error {
	f, err := w.startup.TakeControl()
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	for buf := make([]byte, 4<<10); err == nil; {
		_, err = f.Read(buf)
	}
	return nil
}

// acceptFrom accepts a link from a host of another version, which is a
// goroutine of the worker, and fails as Accept does.
func (w *worker) acceptFrom(edit func(*drivers.Hello)) error {
	control, err := w.startup.TakeControl()
	if err != nil {
		return err
	}
	defer control.Close()
	host, worker, err := socketPair()
	if err != nil {
		return err
	}
	defer host.Close()
	b, err := w.hello(edit)
	if err != nil {
		return err
	}
	go func(c net.Conn) {
		_, _ = c.Write(b)
		for buf, err := make([]byte, 4<<10), error(nil); err == nil; {
			_, err = c.Read(buf)
		}
	}(host)

	s := &drivers.StartupData{
		Protocol: w.startup.Protocol, Driver: w.startup.Driver, Codec: w.startup.Codec, Address: w.startup.Address,
		DriverData: w.startup.DriverData, HostPID: w.startup.HostPID, Timeouts: w.startup.Timeouts,
		MaxMessage: w.startup.MaxMessage, Control: worker,
	}
	a, ok := drivers.Find(s.Driver)
	if !ok {
		return fmt.Errorf("driver %q is not linked in", s.Driver)
	}
	if w.endpoint, err = a.Open(s, slog.Default()); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer w.endpoint.Close()
	_, err = w.accept()
	return fmt.Errorf("accept: %w", err)
}
