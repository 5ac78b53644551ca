//go:build unix

package pool_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

func startPool(b *testing.B, size int) *pool.Pool[*shm.Channel] {
	p, err := pool.New(context.Background(), size, worker.Self("test"), shm.Driver{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

// BenchmarkPoolCall is BenchmarkCall with 64 bytes through pools over shared
// memory: what it takes longer with one worker is what the pool costs.
func BenchmarkPoolCall(b *testing.B) {
	for _, size := range []int{1, 4} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p := startPool(b, size)
			request := make([]byte, 64)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rawEcho.Call(context.Background(), p, request); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPoolCallParallel is BenchmarkCallParallel, 64 callers, through pools.
func BenchmarkPoolCallParallel(b *testing.B) {
	for _, size := range []int{1, 4} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p := startPool(b, size)
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				request := make([]byte, 64)
				for pb.Next() {
					if _, err := rawEcho.Call(context.Background(), p, request); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
