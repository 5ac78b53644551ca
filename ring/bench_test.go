//go:build linux

package ring

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
)

// All benchmarks here run in two processes, each with a segment of its own. The
// round trips are one at a time; the one-way figures include the answer of the
// consumer to the last record.

// BenchmarkOneLine is the limit: one word bounced between two processes by plain
// atomic loads and stores, one cache line each way, without any ring.
func BenchmarkOneLine(b *testing.B) {
	l := startHelper(b, "oneline", MinSize, WaitSpin)
	out, in := u64At(l.ours.Bytes(), ControlSize), u64At(l.theirs.Bytes(), ControlSize)
	n := uint64(0)
	for b.Loop() {
		n++
		atomic.StoreUint64(out, n)
		bounceWait(in, n)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, wait := range []Wait{WaitSpin, WaitAdaptive, WaitPark} {
		for _, size := range []int{8, 64, 1024} {
			b.Run(fmt.Sprintf("%v/%d", wait, size), func(b *testing.B) {
				l := startHelper(b, "echo", 1<<20, wait)
				payload := make([]byte, size)
				b.ReportAllocs()
				for b.Loop() {
					if err := l.p.Write(2, payload); err != nil {
						b.Fatal(err)
					}
					for {
						r, ok, err := l.c.Next()
						if err != nil || ok && len(r.Data) != size {
							b.Fatal(err, len(r.Data))
						}
						if ok {
							break
						}
						if !l.c.Spin() {
							if err := l.c.Wait(context.Background()); err != nil {
								b.Fatal(err)
							}
						}
					}
				}
			})
		}
	}
}

// oneWay sends b.N records in batches, and waits for the answer to the last.
func oneWay(b *testing.B, helper string, size, batch int) {
	l := startHelper(b, helper, 1<<20, WaitAdaptive)
	payload := make([]byte, size)
	ctx := context.Background()
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		tag := byte(0)
		if i == b.N-1 {
			tag = 1
		}
		var err error
		if batch == 1 || tag == 1 || i%batch == batch-1 {
			err = l.p.Send(ctx, tag, payload, nil)
		} else {
			err = l.p.SendBatched(ctx, tag, payload, nil)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	l.next()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrec/s")
}

func BenchmarkOneWay(b *testing.B) {
	for _, size := range []int{8, 64, 1024} {
		b.Run(fmt.Sprint(size), func(b *testing.B) { oneWay(b, "sink", size, 1) })
	}
}

func BenchmarkBatch(b *testing.B) {
	for _, batch := range []int{8, 32, 128} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) { oneWay(b, "sink", 64, batch) })
	}
}

func BenchmarkLease(b *testing.B) { oneWay(b, "leasesink", 64, 1) }

// BenchmarkMessage sends messages that are larger than a record.
func BenchmarkMessage(b *testing.B) { oneWay(b, "joinsink", 4<<20, 1) }

// BenchmarkSameCore is the instructions alone: no other process, no cache line
// that moves.
func BenchmarkSameCore(b *testing.B) {
	payload := make([]byte, 64)
	b.Run("WriteNext", func(b *testing.B) {
		p, c := newPair(b, 1<<16, 0)
		for b.Loop() {
			p.Write(1, payload)
			c.Next()
		}
	})
	b.Run("Batch32", func(b *testing.B) {
		p, c := newPair(b, 1<<16, 0)
		for b.Loop() {
			for range 32 {
				p.Append(1, payload)
			}
			p.Publish()
			for range 32 {
				c.Next()
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/32, "ns/rec")
	})
	b.Run("SendMessage", func(b *testing.B) {
		p, c := newPair(b, 1<<16, 0)
		for b.Loop() {
			p.Send(context.Background(), 1, payload[:16], payload[16:])
			c.Message()
		}
	})
	b.Run("ClaimCommit", func(b *testing.B) {
		p, c := newPair(b, 1<<16, 0)
		for b.Loop() {
			buf, _ := p.TryClaim(64)
			buf[0] = 1
			p.Commit(1, 64)
			p.Publish()
			c.Next()
		}
	})
	b.Run("Lease", func(b *testing.B) {
		p, c := newPair(b, 1<<16, 0)
		for b.Loop() {
			p.Write(1, payload)
			c.Next()
			c.Lease().Release()
		}
	})
}
