//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// counted is an item of 64 bytes.
type counted struct {
	N    int64
	Rest [7]int64
}

// several asks for so many items of so many bytes.
type several struct{ N, Size int64 }

// logged is an item of ten fields.
type logged struct {
	N       int64   `cbor:"1,keyasint"`
	At      int64   `cbor:"2,keyasint"`
	Level   int     `cbor:"3,keyasint"`
	Service string  `cbor:"4,keyasint"`
	Host    string  `cbor:"5,keyasint"`
	Path    string  `cbor:"6,keyasint"`
	Status  int     `cbor:"7,keyasint"`
	Took    float64 `cbor:"8,keyasint"`
	Retried bool    `cbor:"9,keyasint"`
	Trace   uint64  `cbor:"10,keyasint"`
}

var (
	cborDown  = ipc.NewServerStream[several, logged]("test.cbor_down", ipc.WithCodec(ipc.CBOR))
	fixedDown = ipc.NewServerStream[several, counted]("test.fixed_down", ipc.WithCodec(ipc.Fixed))
	fixedUp   = ipc.NewClientStream[counted, counted]("test.fixed_up", ipc.WithCodec(ipc.Fixed))
	rawDown   = ipc.NewServerStream[[]byte, []byte]("test.raw_down", ipc.WithCodec(ipc.Raw))
)

func handleStreamBenchmarks(r worker.Registrar) {
	worker.HandleServerStream(r, fixedDown, func(ctx context.Context, req several, out *ipc.Sender[counted]) error {
		for i := range req.N {
			if err := out.Send(ctx, counted{N: i}); err != nil {
				return err
			}
		}
		return nil
	})
	worker.HandleServerStream(r, cborDown, func(ctx context.Context, req several, out *ipc.Sender[logged]) error {
		item := logged{At: 1_700_000_000_123, Level: 4, Service: "checkout", Host: "node-17.example.org", Path: "/v1/orders/confirm", Status: 201, Took: 0.00317, Trace: 1 << 63}
		for item.N = range req.N {
			if err := out.Send(ctx, item); err != nil {
				return err
			}
		}
		return nil
	})
	worker.HandleClientStream(r, fixedUp, func(ctx context.Context, in *ipc.Receiver[counted]) (last counted, err error) {
		last.N = -1
		for {
			item, err := in.Receive(ctx)
			if err == io.EOF {
				return last, nil
			}
			if err != nil {
				return last, err
			}
			if item.N != last.N+1 {
				return last, fmt.Errorf("item %d after item %d", item.N, last.N)
			}
			last = item
		}
	})
	worker.HandleServerStream(r, rawDown, func(ctx context.Context, req []byte, out *ipc.Sender[[]byte]) error {
		asked, err := ipc.Unmarshal[several](ipc.Fixed, req)
		if err != nil {
			return err
		}
		item := make([]byte, asked.Size)
		for range asked.N {
			if err := out.Send(ctx, item); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkStreamDown measures items from the worker to the host, up to the end of their stream.
func BenchmarkStreamDown(b *testing.B) {
	b.Run("shm/fixed", func(b *testing.B) { benchmarkFixedDown(b, shm.Driver{}) })
	b.Run("socket/fixed", func(b *testing.B) { benchmarkFixedDown(b, socket.Driver{}) })
	b.Run("shm/cbor", func(b *testing.B) { benchmarkCBORDown(b, shm.Driver{}) })
	b.Run("socket/cbor", func(b *testing.B) { benchmarkCBORDown(b, socket.Driver{}) })
	for _, size := range []int{64, 4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("shm/%d", size), func(b *testing.B) { benchmarkRawDown(b, shm.Driver{}, size) })
		b.Run(fmt.Sprintf("socket/%d", size), func(b *testing.B) { benchmarkRawDown(b, socket.Driver{}, size) })
	}
}

func benchmarkFixedDown[C drivers.Channel](b *testing.B, d drivers.Driver[C]) {
	b.SetBytes(64)
	benchmarkDown(b, d, fixedDown, func(item counted) int64 { return item.N })
}

func benchmarkCBORDown[C drivers.Channel](b *testing.B, d drivers.Driver[C]) {
	benchmarkDown(b, d, cborDown, func(item logged) int64 { return item.N })
}

func benchmarkDown[C drivers.Channel, T any](b *testing.B, d drivers.Driver[C], m *ipc.ServerStream[several, T], number func(T) int64) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	b.ResetTimer()
	st, err := m.Open(ctx, w, several{N: int64(b.N)})
	if err != nil {
		b.Fatal(err)
	}
	for n := int64(0); ; n++ {
		switch item, err := st.Receive(ctx); {
		case err == io.EOF && n == int64(b.N):
			return
		case err != nil || number(item) != n:
			b.Fatal(n, item, err)
		}
	}
}

func benchmarkRawDown[C drivers.Channel](b *testing.B, d drivers.Driver[C], size int) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	req, err := ipc.Marshal(ipc.Fixed, nil, several{int64(b.N), int64(size)})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size))
	b.ResetTimer()
	st, err := rawDown.Open(ctx, w, req)
	if err != nil {
		b.Fatal(err)
	}
	for n := 0; ; n++ {
		switch item, err := st.Receive(ctx); {
		case err == io.EOF && n == b.N:
			return
		case err != nil || len(item) != size:
			b.Fatal(n, len(item), err)
		}
	}
}

// BenchmarkStreamUp measures items from the host to the worker, up to its answer.
func BenchmarkStreamUp(b *testing.B) {
	b.Run("shm/fixed", func(b *testing.B) { benchmarkFixedUp(b, shm.Driver{}) })
	b.Run("socket/fixed", func(b *testing.B) { benchmarkFixedUp(b, socket.Driver{}) })
}

func benchmarkFixedUp[C drivers.Channel](b *testing.B, d drivers.Driver[C]) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	b.SetBytes(64)
	b.ResetTimer()
	st, err := fixedUp.Open(ctx, w)
	if err != nil {
		b.Fatal(err)
	}
	for n := range int64(b.N) {
		if err := st.Send(ctx, counted{N: n}); err != nil {
			b.Fatal(err)
		}
	}
	last, err := st.CloseAndReceive(ctx)
	if err != nil || last.N != int64(b.N)-1 {
		b.Fatal(last.N, err)
	}
}

// BenchmarkStreamEcho measures an item there and back on one stream, beside which nothing is
// in flight.
func BenchmarkStreamEcho(b *testing.B) {
	b.Run("shm", func(b *testing.B) { benchmarkStreamEcho(b, shm.Driver{}) })
	b.Run("socket", func(b *testing.B) { benchmarkStreamEcho(b, socket.Driver{}) })
}

func benchmarkStreamEcho[C drivers.Channel](b *testing.B, d drivers.Driver[C]) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	st, err := echoes.Open(ctx, w)
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	item := make([]byte, 64)
	for b.Loop() {
		if err := st.Send(ctx, item); err != nil {
			b.Fatal(err)
		}
		if back, err := st.Receive(ctx); err != nil || len(back) != len(item) {
			b.Fatal(len(back), err)
		}
	}
}

// BenchmarkStreamOpen measures a stream of one item, from its opening to its end.
func BenchmarkStreamOpen(b *testing.B) {
	b.Run("shm", func(b *testing.B) { benchmarkStreamOpen(b, shm.Driver{}) })
	b.Run("socket", func(b *testing.B) { benchmarkStreamOpen(b, socket.Driver{}) })
}

func benchmarkStreamOpen[C drivers.Channel](b *testing.B, d drivers.Driver[C]) {
	ctx, w := context.Background(), benchmarkWorker(b, d)
	for b.Loop() {
		st, err := fixedDown.Open(ctx, w, several{N: 1})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := st.Receive(ctx); err != nil {
			b.Fatal(err)
		}
		if _, err := st.Receive(ctx); err != io.EOF {
			b.Fatal(err)
		}
	}
}
