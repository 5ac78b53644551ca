package engine

import (
	"context"
	"log/slog"
	"testing"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// The benchmarks in this file measure what the engine itself does with a message, on one
// goroutine: their link has every frame at hand, and sends to nowhere.

// endlessLink has a number of frames of one kind to read, and drops what is sent.
type endlessLink struct {
	*fakeLink
	frame drivers.Frame
	left  int
}

func (l *endlessLink) Next(f *drivers.Frame) (bool, error) {
	if l.left == 0 {
		return false, nil
	}
	l.left--
	*f = l.frame
	f.More = l.left > 0
	return true, nil
}

func (l *endlessLink) Spin() bool { return false }

func (l *endlessLink) Send(context.Context, *drivers.Frame) error { return nil }

func (l *endlessLink) SendBatch(_ context.Context, frames []drivers.Frame) (int, error) {
	return len(frames), nil
}

// newEndlessSession returns a session that nobody reads for but the benchmark.
func newEndlessSession(reg *Registry, f drivers.Frame) (*Session, *endlessLink) {
	l := &endlessLink{fakeLink: newFakeLink(), frame: f}
	return New(Config{Link: l, Side: Worker, Codec: ipc.Raw, MaxMessage: 1 << 20, Handlers: reg, Log: slog.New(slog.DiscardHandler)}), l
}

// BenchmarkHandle is the reader's work for one message of 64 bytes and a handler in place.
func BenchmarkHandle(b *testing.B) {
	sum := 0
	one := make([]byte, 64)
	var packed []byte
	for range 32 {
		packed = drivers.AppendItem(packed, one)
	}
	for _, c := range []struct {
		name  string
		frame drivers.Frame
	}{
		{"request", drivers.Frame{Kind: drivers.KindRequest, Payload: one}},
		{"notify", drivers.Frame{Kind: drivers.KindNotify, Payload: one}},
		{"packed", drivers.Frame{Kind: drivers.KindNotify, Tx: 32, Payload: packed}},
	} {
		b.Run(c.name, func(b *testing.B) {
			reg := new(Registry)
			m := ipc.NewMethod[[]byte, []byte]("m", ipc.WithCodec(ipc.Raw))
			handleInPlace(reg, m, func(_ context.Context, r *Request) error {
				sum += len(r.Payload())
				return nil
			}, (*Handler).Inline)
			c.frame.Method = m.Info().ID
			s, l := newEndlessSession(reg, c.frame)
			s.watchdog.active.Store(true) // so that none is started
			r := &backgroundReader{}
			b.ReportAllocs()
			b.ResetTimer()
			l.left = b.N
			if c.frame.Kind == drivers.KindNotify {
				l.left = b.N/int(notifications(&c.frame)) + 1
			}
			s.acquire(nil)
			s.readInBackground(r)
		})
	}
	if sum == 0 {
		b.Fatal("no handler has run")
	}
}

// BenchmarkGather is what one notification of 64 bytes costs its sender in a batch.
func BenchmarkGather(b *testing.B) {
	s, _ := newEndlessSession(new(Registry), drivers.Frame{})
	m := ipc.NewMethod[[]byte, []byte]("m", ipc.WithCodec(ipc.Raw))
	payload := make([]byte, 64)
	b.ReportAllocs()
	for n := b.N; n > 0; n -= 256 {
		err := ipc.Batch(b.Context(), s, func(c ipc.Caller) error {
			for range min(n, 256) {
				if err := m.Notify(b.Context(), c, payload); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		s.notificationWindow.returned.Store(s.notificationWindow.sent.Load())
	}
}
