package arena

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var benchSizes = []int{64, 4096, 1 << 20, 64 << 20}

// A block allocated and freed by one goroutine: what a buffer costs that is used once.
func BenchmarkAllocFree(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			a := New(Options{})
			defer a.Close()
			b.ReportAllocs()
			for b.Loop() {
				block, err := a.Alloc(size)
				if err != nil {
					b.Fatal(err)
				}
				block.Free()
			}
		})
	}
}

// The same while a thousand others are held, freed in the order of their allocation.
func BenchmarkAllocFreeQueue(b *testing.B) {
	for _, size := range []int{64, 4096, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			a := New(Options{})
			defer a.Close()
			var held [1000]*Block
			for i := range held {
				held[i], _ = a.Alloc(size)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i = (i + 1) % len(held) {
				held[i].Free()
				block, err := a.Alloc(size)
				if err != nil {
					b.Fatal(err)
				}
				held[i] = block
			}
		})
	}
}

// Goroutines that allocate and free, of one class or of one for each.
func BenchmarkAllocFreeParallel(b *testing.B) {
	for _, size := range []int{64, 4096} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			a := New(Options{})
			defer a.Close()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					block, err := a.Alloc(size)
					if err != nil {
						b.Error(err)
						return
					}
					block.Free()
				}
			})
		})
	}
}

// What a new region takes.
func BenchmarkNewRegion(b *testing.B) {
	for _, size := range []int{4 << 20, 64 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			a := New(Options{Idle: -time.Second})
			defer a.Close()
			b.SetBytes(int64(size))
			for b.Loop() {
				block, err := a.Alloc(size)
				require.NoError(b, err)
				block.Free()
				a.Trim()
			}
		})
	}
}
