package drivertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// mirror sends every frame back as it is.
func (w *worker) mirror() error {
	return w.serve(func(f drivers.Frame) {
		f.Handles = nil // which are of this direction
		w.send(f)
	})
}

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
	err := w.link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindNotify, Tx: uint64(w.N), Payload: payload(uint64(w.N), w.Size)})
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
	err := w.link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindNotify, Payload: make([]byte, w.Size)})
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
			if err := w.link.Send(context.Background(), &f); err != nil && !ended(err) {
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
