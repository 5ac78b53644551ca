package ring_test

import (
	"context"
	"fmt"
	"log"

	"github.com/tandemipc/tandem/ring"
)

// pair joins two sides in one process, on heap memory. In life each side makes
// its segment with Create and gets the peer's with Open.
func pair() (p *ring.Producer, c *ring.Consumer) {
	n, err := ring.SegmentSize(64 << 10)
	if err != nil {
		log.Fatal(err)
	}
	a, b := make([]byte, n), make([]byte, n)
	for _, seg := range [][]byte{a, b} {
		if err := ring.Format(seg, 0); err != nil {
			log.Fatal(err)
		}
	}
	p, _, err = ring.Join(a, b)
	if err != nil {
		log.Fatal(err)
	}
	_, c, err = ring.Join(b, a)
	if err != nil {
		log.Fatal(err)
	}
	return p, c
}

func ExampleJoin() {
	p, c := pair()
	go func() {
		for i := range 3 {
			if err := p.Send(context.Background(), byte(i), []byte("record "), fmt.Append(nil, i)); err != nil {
				log.Fatal(err)
			}
		}
	}()
	for n := 0; n < 3; {
		r, ok, err := c.Next()
		switch {
		case err != nil:
			log.Fatal(err)
		case ok:
			fmt.Println(r.Tag, string(r.Data))
			n++
		default:
			if err := c.Wait(context.Background()); err != nil {
				log.Fatal(err)
			}
		}
	}
	// Output:
	// 0 record 0
	// 1 record 1
	// 2 record 2
}

func ExampleProducer_TryClaim() {
	p, c := pair()
	buf, err := p.TryClaim(100)
	if err != nil {
		log.Fatal(err)
	}
	out := fmt.Appendf(buf[:0], "%d bytes claimed", len(buf)) // built in the ring
	p.Commit(7, len(out))

	_, ok, _ := c.Next()
	fmt.Println("before Publish:", ok)
	p.Publish()
	r, ok, _ := c.Next()
	fmt.Println("after Publish:", ok, r.Tag, string(r.Data))
	// Output:
	// before Publish: false
	// after Publish: true 7 100 bytes claimed
}

func ExampleConsumer_Lease() {
	p, c := pair()
	for _, s := range []string{"first", "second"} {
		if err := p.Write(0, []byte(s)); err != nil {
			log.Fatal(err)
		}
	}
	first, _, _ := c.Next()
	lease := c.Lease() // so that first stays valid

	done := make(chan string)
	go func() {
		defer lease.Release()
		done <- string(first.Data)
	}()
	second, _, _ := c.Next()
	fmt.Println(string(second.Data), "while", <-done, "is leased")
	// Output: second while first is leased
}

func ExampleConsumer_Message() {
	p, c := pair()
	go func() {
		large := make([]byte, 1<<20) // 16 times the ring
		if err := p.Send(context.Background(), 1, nil, large); err != nil {
			log.Fatal(err)
		}
	}()
	for {
		m, ok, err := c.Message()
		if err != nil {
			log.Fatal(err)
		}
		if ok {
			fmt.Println(len(m.Data), "bytes, owned:", m.Owned)
			return
		}
		if err := c.Wait(context.Background()); err != nil {
			log.Fatal(err)
		}
	}
	// Output: 1048576 bytes, owned: true
}
