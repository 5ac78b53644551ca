//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// BenchmarkCall measures the round trip of a call between two processes: one
// caller, the raw codec, a handler that returns its request.
func BenchmarkCall(b *testing.B) {
	for _, size := range []int{0, 64, 4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("shm/%d", size), func(b *testing.B) { benchmarkCall(b, shm.Driver{}, size) })
		b.Run(fmt.Sprintf("socket/%d", size), func(b *testing.B) { benchmarkCall(b, socket.Driver{}, size) })
	}
}

func benchmarkCall[C ipc.Channel](b *testing.B, d ipc.Driver[C], size int) {
	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("test"), d)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	request := make([]byte, size)
	b.SetBytes(int64(2 * size))
	b.ReportAllocs()
	for b.Loop() {
		response, err := rawEcho.Call(ctx, w, request)
		if err != nil || len(response) != size {
			b.Fatal(len(response), err)
		}
	}
}

// BenchmarkCallInPlace is BenchmarkCall with a response buffer that is used again,
// and a handler that sends its request back from where it lies.
func BenchmarkCallInPlace(b *testing.B) {
	for _, size := range []int{64, 4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("shm/%d", size), func(b *testing.B) { benchmarkInPlace(b, shm.Driver{}, size) })
		b.Run(fmt.Sprintf("socket/%d", size), func(b *testing.B) { benchmarkInPlace(b, socket.Driver{}, size) })
	}
}

func benchmarkInPlace[C ipc.Channel](b *testing.B, d ipc.Driver[C], size int) {
	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("test"), d)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	request := make([]byte, size)
	var response []byte
	b.SetBytes(int64(2 * size))
	b.ReportAllocs()
	for b.Loop() {
		if err := inPlace.CallInto(ctx, w, request, &response); err != nil || len(response) != size {
			b.Fatal(len(response), err)
		}
	}
}

// BenchmarkCallParallel is BenchmarkCall with 64 callers on one link.
func BenchmarkCallParallel(b *testing.B) {
	b.Run("shm", func(b *testing.B) { benchmarkParallel(b, shm.Driver{}) })
	b.Run("socket", func(b *testing.B) { benchmarkParallel(b, socket.Driver{}) })
}

func benchmarkParallel[C ipc.Channel](b *testing.B, d ipc.Driver[C]) {
	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("test"), d)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		request := make([]byte, 64)
		for pb.Next() {
			if _, err := rawEcho.Call(ctx, w, request); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkCallCBOR measures the round trip of a call with structs.
func BenchmarkCallCBOR(b *testing.B) {
	b.Run("shm", func(b *testing.B) { benchmarkCBOR(b, shm.Driver{}) })
	b.Run("socket", func(b *testing.B) { benchmarkCBOR(b, socket.Driver{}) })
}

func benchmarkCBOR[C ipc.Channel](b *testing.B, d ipc.Driver[C]) {
	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("test"), d)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	b.ReportAllocs()
	for b.Loop() {
		sum, err := add.Call(ctx, w, pair{A: 1, B: 2})
		if err != nil || sum != 3 {
			b.Fatal(sum, err)
		}
	}
}
