//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
)

// BenchmarkBuffer measures the round trip of a buffer that its sender has filled once. The
// receiver returns it, and nobody reads it.
func BenchmarkBuffer(b *testing.B) {
	for _, size := range []int{64, 4 << 10, 1 << 20, 64 << 20} {
		b.Run(fmt.Sprintf("shm/%d", size), func(b *testing.B) { benchmarkBuffer(b, shm.Driver{}, size) })
		if size <= 1<<20 {
			b.Run(fmt.Sprintf("socket/%d", size), func(b *testing.B) { benchmarkBuffer(b, socket.Driver{}, size) })
		}
	}
}

func benchmarkBuffer[C drivers.Channel](b *testing.B, d drivers.Driver[C], size int) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	request, err := w.Alloc(ctx, size)
	if err != nil {
		b.Fatal(err)
	}
	defer request.Release()
	for b.Loop() {
		response, err := bufferEcho.Call(ctx, w, request)
		if err != nil || response.Len() != size {
			b.Fatal(err)
		}
		response.Release()
	}
}
