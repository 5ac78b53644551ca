//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// benchmarkWorker starts a worker for a benchmark, whose allocations are reported.
func benchmarkWorker[C drivers.Channel](b *testing.B, d drivers.Driver[C]) *worker.Client[C] {
	b.Helper()
	w, err := worker.Spawn(context.Background(), worker.Self("test"), d)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = w.Close() })
	b.ReportAllocs()
	return w
}

// BenchmarkCall measures the round trip of a call between two processes: one
// caller, the raw codec, a handler that returns its request.
func BenchmarkCall(b *testing.B) {
	for _, size := range []int{0, 64, 4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("shm/%d", size), func(b *testing.B) { benchmarkCall(b, shm.Driver{}, size) })
		b.Run(fmt.Sprintf("socket/%d", size), func(b *testing.B) { benchmarkCall(b, socket.Driver{}, size) })
	}
}

func benchmarkCall[C drivers.Channel](b *testing.B, d drivers.Driver[C], size int) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	request := make([]byte, size)
	b.SetBytes(int64(2 * size))
	for b.Loop() {
		response, err := rawEcho.Call(ctx, w, request)
		if err != nil || len(response) != size {
			b.Fatal(len(response), err)
		}
	}
}

// BenchmarkServiceCall is BenchmarkCall of 64 bytes with a client that has dialled, and
// BenchmarkCallInPlace of those; and the latter by several clients of one service.
func BenchmarkServiceCall(b *testing.B) {
	for _, d := range serviceDrivers {
		s := startService(b, d, socketPath(b))
		ctx, request := context.Background(), make([]byte, 64)
		call := func(c *worker.ServiceClient, response *[]byte) error {
			return inPlace.CallInto(ctx, c, request, response)
		}
		b.Run(d.Name()+"/64", func(b *testing.B) {
			c := dial(b, d, s.name)
			b.ReportAllocs()
			for b.Loop() {
				if response, err := rawEcho.Call(ctx, c, request); err != nil || len(response) != len(request) {
					b.Fatal(len(response), err)
				}
			}
		})
		b.Run(d.Name()+"/64/in place", func(b *testing.B) {
			c := dial(b, d, s.name)
			var response []byte
			b.ReportAllocs()
			for b.Loop() {
				if err := call(c, &response); err != nil || len(response) != len(request) {
					b.Fatal(len(response), err)
				}
			}
		})
		for _, n := range []int{4, 64} {
			b.Run(fmt.Sprintf("%s/64/%d clients", d.Name(), n), func(b *testing.B) {
				clients := make(chan *worker.ServiceClient, n)
				for range n {
					clients <- dial(b, d, s.name)
				}
				b.SetParallelism(max(1, n/runtime.GOMAXPROCS(0)))
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					c := <-clients
					defer func() { clients <- c }()
					var response []byte
					for pb.Next() {
						if err := call(c, &response); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
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

func benchmarkInPlace[C drivers.Channel](b *testing.B, d drivers.Driver[C], size int) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	request := make([]byte, size)
	var response []byte
	b.SetBytes(int64(2 * size))
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

func benchmarkParallel[C drivers.Channel](b *testing.B, d drivers.Driver[C]) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	b.SetParallelism(32)
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

// BenchmarkPipeline measures calls of which 32 are in flight from one goroutine,
// started one by one or as a batch.
func BenchmarkPipeline(b *testing.B) {
	b.Run("shm/single", func(b *testing.B) { benchmarkPipeline(b, shm.Driver{}, single) })
	b.Run("shm/batch", func(b *testing.B) { benchmarkPipeline(b, shm.Driver{}, ipc.Batch) })
	b.Run("socket/single", func(b *testing.B) { benchmarkPipeline(b, socket.Driver{}, single) })
	b.Run("socket/batch", func(b *testing.B) { benchmarkPipeline(b, socket.Driver{}, ipc.Batch) })
}

type batcher func(context.Context, ipc.Caller, func(ipc.Caller) error) error

func single(_ context.Context, c ipc.Caller, f func(ipc.Caller) error) error { return f(c) }

func benchmarkPipeline[C drivers.Channel](b *testing.B, d drivers.Driver[C], batch batcher) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	request := make([]byte, 64)
	var flying [32]*ipc.Future[[]byte]
	for n := 0; n < b.N; n += len(flying) {
		err := batch(ctx, w, func(c ipc.Caller) (err error) {
			for i := range flying {
				if flying[i], err = inPlace.Go(ctx, c, request); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range flying {
			if _, err := f.Wait(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkNotify measures notifications, one by one or 256 to a batch, up to a call
// that comes after all of them.
func BenchmarkNotify(b *testing.B) {
	b.Run("shm/single", func(b *testing.B) { benchmarkNotify(b, shm.Driver{}, single) })
	b.Run("shm/batch", func(b *testing.B) { benchmarkNotify(b, shm.Driver{}, ipc.Batch) })
	b.Run("socket/single", func(b *testing.B) { benchmarkNotify(b, socket.Driver{}, single) })
	b.Run("socket/batch", func(b *testing.B) { benchmarkNotify(b, socket.Driver{}, ipc.Batch) })
}

func benchmarkNotify[C drivers.Channel](b *testing.B, d drivers.Driver[C], batch batcher) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	request := make([]byte, 64)
	for n := 0; n < b.N; n += 256 {
		err := batch(ctx, w, func(c ipc.Caller) error {
			for range 256 {
				if err := inPlace.Notify(ctx, c, request); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if _, err := inPlace.Call(ctx, w, nil); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkCallCBOR measures the round trip of a call with structs.
func BenchmarkCallCBOR(b *testing.B) {
	b.Run("shm", func(b *testing.B) { benchmarkCBOR(b, shm.Driver{}) })
	b.Run("socket", func(b *testing.B) { benchmarkCBOR(b, socket.Driver{}) })
}

func benchmarkCBOR[C drivers.Channel](b *testing.B, d drivers.Driver[C]) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	for b.Loop() {
		sum, err := add.Call(ctx, w, pair{A: 1, B: 2})
		if err != nil || sum != 3 {
			b.Fatal(sum, err)
		}
	}
}

// BenchmarkCallIntercepted is BenchmarkCallInPlace of 64 bytes with interceptors that do nothing
// around calls, attempts and both.
func BenchmarkCallIntercepted(b *testing.B) {
	pass := func(ctx context.Context, _ *ipc.Call, next func(context.Context) error) error { return next(ctx) }
	for _, c := range []struct {
		name string
		list []ipc.Interceptor
	}{
		{"none", nil},
		{"call", []ipc.Interceptor{{Call: pass}}},
		{"call and attempt", []ipc.Interceptor{{Call: pass, Attempt: pass}}},
		{"three", []ipc.Interceptor{{Call: pass}, {Call: pass}, {Call: pass}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			w, err := worker.Spawn(context.Background(), worker.Self("test"), shm.Driver{}, worker.WithInterceptors(c.list...))
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			ctx, request := context.Background(), make([]byte, 64)
			var response []byte
			b.ReportAllocs()
			for b.Loop() {
				if err := inPlace.CallInto(ctx, w, request, &response); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCallMetadata is BenchmarkCallInPlace of 64 bytes with metadata.
func BenchmarkCallMetadata(b *testing.B) {
	ctx, w := context.Background(), benchmarkWorker(b, shm.Driver{})
	request := make([]byte, 64)
	var response []byte
	opt := ipc.WithMetadata("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	for b.Loop() {
		if err := inPlace.CallInto(ctx, w, request, &response, opt); err != nil {
			b.Fatal(err)
		}
	}
}
