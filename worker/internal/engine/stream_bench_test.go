package engine

import (
	"testing"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// tick64 is an item of 64 bytes.
type tick64 [8]int64

// BenchmarkStreamSend is what one item of 64 bytes costs its sender, when the peer takes all.
func BenchmarkStreamSend(b *testing.B) {
	for _, c := range []struct {
		name  string
		codec ipc.Codec
	}{{"fixed", ipc.Fixed}, {"raw", ipc.Raw}} {
		b.Run(c.name, func(b *testing.B) {
			s, _ := newEndlessSession(new(Registry), drivers.Frame{})
			var send func() error
			if c.codec == ipc.Fixed {
				up, err := ipc.NewClientStream[tick64, tick64]("m", ipc.WithCodec(c.codec)).Open(b.Context(), s)
				if err != nil {
					b.Fatal(err)
				}
				var item tick64
				send = func() error { item[0]++; return up.Send(b.Context(), item) }
			} else {
				up, err := ipc.NewClientStream[[]byte, []byte]("m", ipc.WithCodec(c.codec)).Open(b.Context(), s)
				if err != nil {
					b.Fatal(err)
				}
				item := make([]byte, 64)
				send = func() error { return up.Send(b.Context(), item) }
			}
			for _, st := range s.streams.own {
				st.out.granted.Store(drivers.MaxStreamBytes)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := send(); err != nil {
					b.Fatal(err)
				}
			}
			s.Fail(ipc.ErrClosed)
		})
	}
}

// BenchmarkStreamReceive is what one item of 64 bytes costs its receiver, with the reader's
// work for the frames.
func BenchmarkStreamReceive(b *testing.B) {
	s, _ := newEndlessSession(new(Registry), drivers.Frame{})
	m := ipc.NewServerStream[tick64, tick64]("m", ipc.WithCodec(ipc.Fixed))
	st, err := m.Open(b.Context(), s, tick64{})
	if err != nil {
		b.Fatal(err)
	}
	var items []byte
	one := make([]byte, 64)
	for len(items)+drivers.ItemSpan(64) <= drivers.MaxGathered {
		items = drivers.AppendItem(items, one)
	}
	f := drivers.Frame{Kind: drivers.KindItems, Tx: firstStream | s.config.Side, Payload: items}
	const frames = 4
	per := len(items) / drivers.ItemSpan(64) * frames
	b.ReportAllocs()
	left := 0
	for b.Loop() {
		if left == 0 {
			for range frames {
				s.streams.own[f.Tx].in.granted += int64(len(items))
				if err := s.receiveStream(&f); err != nil {
					b.Fatal(err)
				}
			}
			left = per
		}
		if _, err := st.Receive(b.Context()); err != nil {
			b.Fatal(err)
		}
		left--
	}
}
