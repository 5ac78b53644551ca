package broadcast_test

import (
	"context"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ring/broadcast"
)

// One writer and two readers, on memory of one process. In shared memory seg comes from
// broadcast.Create and broadcast.Open.
func Example() {
	seg := make([]byte, broadcast.ControlSize+broadcast.MinSize)
	if err := broadcast.Format(seg, broadcast.Point{}); err != nil {
		panic(err)
	}
	w, err := broadcast.NewWriter(seg)
	if err != nil {
		panic(err)
	}
	defer w.Close()
	for name := range 2 {
		r, err := broadcast.NewReader(seg, nil, broadcast.Now)
		if err != nil {
			panic(err)
		}
		defer func() {
			for {
				rec, ok, err := r.Next()
				if err != nil || !ok {
					return
				}
				fmt.Printf("reader %d: %d %s\n", name, rec.Sequence, rec.Data)
			}
		}()
	}
	for _, s := range []string{"to", "all"} {
		if err := w.Write(1, []byte(s)); err != nil {
			panic(err)
		}
	}
	// Output:
	// reader 1: 0 to
	// reader 1: 1 all
	// reader 0: 0 to
	// reader 0: 1 all
}

// A reader that is too slow learns how many records it has lost.
func ExampleReader_Next() {
	seg := make([]byte, broadcast.ControlSize+broadcast.MinSize)
	if err := broadcast.Format(seg, broadcast.Point{}); err != nil {
		panic(err)
	}
	w, err := broadcast.NewWriter(seg)
	if err != nil {
		panic(err)
	}
	defer w.Close()
	r, err := broadcast.NewReader(seg, nil, broadcast.Now)
	if err != nil {
		panic(err)
	}
	for i := range 1000 {
		if err := w.Write(0, fmt.Append(nil, i)); err != nil {
			panic(err)
		}
	}
	rec, _, err := r.Next()
	if err != nil {
		panic(err)
	}
	fmt.Printf("record %s has number %d\n", rec.Data, rec.Sequence)
	fmt.Println("numbers add up:", rec.Lost == rec.Sequence)
	// Output:
	// record 879 has number 879
	// numbers add up: true
}

// The writer waits for a reliable reader, and cuts it off when it has waited long enough.
func ExampleReliable() {
	seg := make([]byte, broadcast.ControlSize+broadcast.MinSize)
	own := make([]byte, broadcast.ReaderSize)
	if err := broadcast.Format(seg, broadcast.Point{}); err != nil {
		panic(err)
	}
	if err := broadcast.FormatReader(own); err != nil {
		panic(err)
	}
	w, err := broadcast.NewWriter(seg)
	if err != nil {
		panic(err)
	}
	defer w.Close()
	r, err := broadcast.NewReader(seg, own, broadcast.Now)
	if err != nil {
		panic(err)
	}
	peer, err := w.Add(own, broadcast.Reliable(10*time.Millisecond))
	if err != nil {
		panic(err)
	}
	for range 200 { // more than the ring takes
		if err := w.Send(context.Background(), 0, make([]byte, 100)); err != nil {
			panic(err)
		}
	}
	<-peer.Done()
	peer.Remove() // from here on its memory may be unmapped
	for {
		if _, ok, err := r.Next(); !ok {
			fmt.Println(err)
			break
		}
	}
	// Output:
	// tandem: broadcast: the writer has cut this reader off
}
