package gather_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/ring/gather"
)

// pair makes a producer and the consumer of its ring on heap memory. Between processes both
// come from ring.Exchange, one on each side.
func pair() (*ring.Producer, *ring.Consumer) {
	n, err := ring.SegmentSize(ring.MinSize)
	if err != nil {
		log.Fatal(err)
	}
	a, b := make([]byte, n), make([]byte, n)
	if err := errors.Join(ring.Format(a, 0), ring.Format(b, 0)); err != nil {
		log.Fatal(err)
	}
	p, _, err := ring.Join(a, b)
	if err != nil {
		log.Fatal(err)
	}
	_, c, err := ring.Join(b, a)
	if err != nil {
		log.Fatal(err)
	}
	return p, c
}

func ExampleConsumer() {
	var g gather.Consumer[string]
	g.SetQuantum(1, 1<<10) // the smallest turns, to see them
	for _, name := range []string{"ann", "bob", "eve"} {
		p, c := pair()
		if err := g.Add(c, name); err != nil {
			log.Fatal(err)
		}
		for i := range 2 {
			if err := p.Send(context.Background(), 0, fmt.Append(nil, "record ", i), nil); err != nil {
				log.Fatal(err)
			}
		}
		if name != "bob" {
			c.Interrupt(ring.ErrPeerGone) // a ring.Link does this when the process is gone
		}
	}
	for g.Len() > 1 {
		r, name, ok, err := g.Next()
		switch {
		case err != nil:
			fmt.Println(name, "is out:", err)
		case ok:
			fmt.Println(name, string(r.Data))
		default:
			if err := g.Wait(context.Background()); err != nil {
				log.Fatal(err)
			}
		}
	}
	// Output:
	// ann record 0
	// bob record 0
	// eve record 0
	// ann record 1
	// bob record 1
	// eve record 1
	// ann is out: tandem: ring: the peer is gone
	// eve is out: tandem: ring: the peer is gone
}

func ExampleConsumer_Remove() {
	var g gather.Consumer[int]
	p, c := pair()
	if err := g.Add(c, 1); err != nil {
		log.Fatal(err)
	}
	go g.Remove(1) // any goroutine may
	for {
		_ = p.Write(0, []byte("never ending")) // until its ring is full
		_, id, _, err := g.Next()
		if err != nil {
			fmt.Println(id, errors.Is(err, gather.ErrRemoved))
			return
		}
	}
	// Output: 1 true
}
