package ipc_test

import (
	"fmt"
	"testing"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// order is a realistic request: some numbers, some text, a list.
type order struct {
	ID       uint64
	Customer string
	Items    []item
	Notes    map[string]string
	Express  bool
}

type item struct {
	SKU   string
	Count int
	Price float64
}

func benchOrder() order {
	o := order{ID: 123456789, Customer: "Ada Lovelace", Notes: map[string]string{"door": "ring twice"}, Express: true}
	for i := range 4 {
		o.Items = append(o.Items, item{SKU: fmt.Sprintf("SKU-%06d", i), Count: i + 1, Price: 9.99 * float64(i+1)})
	}
	return o
}

// BenchmarkCodec measures one value, encoded and decoded again, in one process:
// what a call pays on each side for it, without any transport.
func BenchmarkCodec(b *testing.B) {
	b.Run("cbor", func(b *testing.B) { benchmarkCodec(b, ipc.CBOR, benchOrder()) })
	b.Run("json", func(b *testing.B) { benchmarkCodec(b, ipc.JSON, benchOrder()) })
	b.Run("fixed", func(b *testing.B) { benchmarkCodec(b, ipc.Fixed, tick{Time: 1, Price: 2}) })
	b.Run("raw", func(b *testing.B) { benchmarkCodec(b, ipc.Raw, make([]byte, 256)) })
}

func benchmarkCodec[T any](b *testing.B, c ipc.Codec, v T) {
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = ipc.Marshal(c, buf[:0], v); err != nil {
			b.Fatal(err)
		}
		if _, err = ipc.Unmarshal[T](c, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
}

// BenchmarkFrame measures the header of a request, made and parsed.
func BenchmarkFrame(b *testing.B) {
	f := drivers.Frame{Kind: drivers.KindRequest, Tx: 42, Method: 1 << 60, Payload: make([]byte, 64)}
	var g drivers.Frame
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = append(f.AppendHeader(buf[:0]), f.Payload...)
		if err := g.Parse(f.Tag(), buf); err != nil || g.Tx != f.Tx {
			b.Fatal(g, err)
		}
	}
}
