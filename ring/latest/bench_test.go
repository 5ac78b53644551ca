package latest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

var benchSizes = []int{8, 64, 4096}

func BenchmarkStore(b *testing.B) {
	for _, size := range benchSizes {
		for _, readers := range []int{0, 1} {
			b.Run(fmt.Sprintf("%dB/readers=%d", size, readers), func(b *testing.B) {
				_, w, r := newCell(b, size, Slots(size))
				var stop atomic.Bool
				var wg sync.WaitGroup
				for range readers {
					wg.Go(func() {
						dst := make([]byte, size)
						for !stop.Load() {
							r.Load(dst)
						}
					})
				}
				p := make([]byte, size)
				for b.Loop() {
					w.Store(p)
				}
				stop.Store(true)
				wg.Wait()
			})
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, size := range benchSizes {
		for _, writers := range []int{0, 1} {
			b.Run(fmt.Sprintf("%dB/writers=%d", size, writers), func(b *testing.B) {
				_, w, r := newCell(b, size, Slots(size))
				var stop atomic.Bool
				var wg sync.WaitGroup
				for range writers {
					wg.Go(func() {
						p := make([]byte, size)
						for !stop.Load() {
							w.Store(p)
						}
					})
				}
				dst := make([]byte, size)
				overtaken := 0
				for b.Loop() {
					if _, err := r.Load(dst); err != nil {
						overtaken++
					}
				}
				b.ReportMetric(float64(overtaken)/float64(b.N), "failed/op")
				stop.Store(true)
				wg.Wait()
			})
		}
	}
}

func BenchmarkCounters(b *testing.B) {
	for _, packed := range []bool{false, true} {
		c, r := newCounters(b, 8, packed)
		b.Run(fmt.Sprintf("Add/packed=%v", packed), func(b *testing.B) {
			for b.Loop() {
				c.Add(3, 1)
			}
		})
		b.Run(fmt.Sprintf("Snapshot8/packed=%v", packed), func(b *testing.B) {
			var counts []uint64
			for b.Loop() {
				counts = r.Snapshot(counts[:0])
			}
		})
	}
}
