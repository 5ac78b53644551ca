package gather

import (
	"context"
	"fmt"
	"testing"

	"github.com/tandemipc/tandem/ring"
)

var producerCounts = []int{1, 4, 16}

func init() {
	// echo sends every record back, and parks at once when there is none.
	helpers["echo"] = func() {
		l := helperLink()
		l.Producer.SetWait(ring.WaitPark)
		l.Consumer.SetWait(ring.WaitPark)
		for {
			r, ok, err := l.Consumer.Next()
			if err == nil && ok {
				err = l.Producer.Send(context.Background(), r.Tag, r.Data, nil)
			} else if err == nil {
				err = l.Consumer.Wait(context.Background())
			}
			if err != nil {
				return
			}
		}
	}
	// flood sends records of 64 bytes until it is killed.
	helpers["flood"] = func() {
		p := helperLink().Producer
		payload := make([]byte, 64)
		for p.Send(context.Background(), tagNumber, payload, nil) == nil {
		}
	}
}

// BenchmarkNext is the instructions alone, of a record written and read: no other process, no
// cache line that moves.
func BenchmarkNext(b *testing.B) {
	payload := make([]byte, 64)
	const batch = 32
	b.Run("ring", func(b *testing.B) {
		p, c := pair(b, 1<<16)
		for i := 0; i < b.N; i += batch {
			for range batch {
				_ = p.Write(0, payload)
			}
			for range batch {
				_, _, _ = c.Next()
			}
		}
	})
	for _, n := range producerCounts {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var g Consumer[int]
			var producers []*ring.Producer
			for id := range n {
				p, c := pair(b, 1<<16)
				if err := g.Add(c, id); err != nil {
					b.Fatal(err)
				}
				producers = append(producers, p)
			}
			b.ReportAllocs()
			for i := 0; i < b.N; i += batch {
				p := producers[i/batch%n]
				for range batch {
					_ = p.Write(0, payload)
				}
				for range batch {
					if _, _, ok, err := g.Next(); !ok || err != nil {
						b.Fatal(ok, err)
					}
				}
			}
		})
	}
}

// BenchmarkFlood reads what other processes send as fast as they can: 64 bytes each.
func BenchmarkFlood(b *testing.B) {
	ctx := context.Background()
	b.Run("ring", func(b *testing.B) {
		c := startPeer(b, "flood").link.Consumer
		b.ResetTimer()
		for n := 0; n < b.N; {
			if _, ok, err := c.Next(); ok {
				n++
			} else if err != nil {
				b.Fatal(err)
			} else if err := c.Wait(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, n := range producerCounts {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var g Consumer[int]
			for id := range n {
				if err := g.Add(startPeer(b, "flood").link.Consumer, id); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for n := 0; n < b.N; {
				if _, _, ok, err := g.Next(); ok {
					n++
				} else if err != nil {
					b.Fatal(err)
				} else if err := g.Wait(ctx); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			g.Close()
		})
	}
}

// BenchmarkWake is a round trip to each of n processes in turn, which park at once, as does the
// consumer: that of the one ring from which the answer will come, or the one for all.
func BenchmarkWake(b *testing.B) {
	for _, n := range producerCounts {
		b.Run(fmt.Sprint("ring/", n), func(b *testing.B) {
			links := echoes(b, n)
			for _, l := range links {
				l.Consumer.SetWait(ring.WaitPark)
			}
			trips(b, links, func(l *ring.Link) (bool, error) {
				_, ok, err := l.Consumer.Next()
				return ok, err
			}, func(ctx context.Context, l *ring.Link) error { return l.Consumer.Wait(ctx) })
		})
		b.Run(fmt.Sprint("gather/", n), func(b *testing.B) {
			links := echoes(b, n)
			var g Consumer[int]
			g.SetWait(ring.WaitPark)
			for id, l := range links {
				if err := g.Add(l.Consumer, id); err != nil {
					b.Fatal(err)
				}
			}
			trips(b, links, func(*ring.Link) (bool, error) {
				_, _, ok, err := g.Next()
				return ok, err
			}, func(ctx context.Context, _ *ring.Link) error { return g.Wait(ctx) })
			g.Close()
		})
	}
}

func echoes(b *testing.B, n int) (links []*ring.Link) {
	for range n {
		links = append(links, startPeer(b, "echo").link)
	}
	return links
}

func trips(b *testing.B, links []*ring.Link, next func(*ring.Link) (bool, error), wait func(context.Context, *ring.Link) error) {
	ctx := context.Background()
	payload := make([]byte, 8)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l := links[i%len(links)]
		if err := l.Producer.Write(0, payload); err != nil {
			b.Fatal(err)
		}
		for {
			ok, err := next(l)
			if ok {
				break
			}
			if err == nil {
				err = wait(ctx, l)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
