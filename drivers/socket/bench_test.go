//go:build linux

package socket_test

import (
	"context"
	"io"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/socket"
)

var benchSizes = []struct {
	name string
	size int
}{{"64B", 64}, {"4KiB", 4 << 10}, {"64KiB", 64 << 10}, {"1MiB", 1 << 20}}

// BenchmarkRoundTrip is one frame to another process and back, one at a time.
// Both sides sleep in the netpoller while they wait.
func BenchmarkRoundTrip(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(s.name, func(b *testing.B) {
			ctx := context.Background()
			ch, err := socket.Driver{}.Spawn(ctx, command(b, "echo", ""))
			require.NoError(b, err)
			defer endBench(b, ch)
			ch.Links(func(l drivers.Link) {
				defer l.Close()
				f := &drivers.Frame{Kind: drivers.KindRequest, Tx: 1, Method: methodEcho, Payload: make([]byte, s.size)}
				b.SetBytes(int64(2 * s.size))
				b.ReportAllocs()
				for b.Loop() {
					if err := l.Send(ctx, f); err != nil {
						b.Fatal(err)
					}
					if _, err := next(ctx, l); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkPlainSocket is the limit for the above: bytes to another process and
// back over a net.UnixConn, without frames, into memory that is used again.
func BenchmarkPlainSocket(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(s.name, func(b *testing.B) {
			cmd := command(b, "plain", strconv.Itoa(s.size))
			var conn *net.UnixConn
			p, conn, err := process.Spawn(context.Background(), cmd, process.Options{}, func(*net.UnixConn) error { return nil })
			require.NoError(b, err)
			defer func() { conn.Close(); <-p.Done() }()
			out, in := make([]byte, s.size), make([]byte, s.size)
			b.SetBytes(int64(2 * s.size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(out); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(conn, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// plainEcho sends back what it reads, once all of a message is here.
func plainEcho(s *drivers.StartupData, size int) int {
	conn, err := process.Control(s)
	if err != nil {
		return fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, size)
	for {
		if _, err := io.ReadFull(conn, buf); err != nil {
			return 0
		}
		if _, err := conn.Write(buf); err != nil {
			return fatal(err)
		}
	}
}

// BenchmarkOneWay is frames to another process, answered by one at the end.
func BenchmarkOneWay(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(s.name, func(b *testing.B) {
			ctx := context.Background()
			ch, err := socket.Driver{}.Spawn(ctx, command(b, "echo", ""))
			require.NoError(b, err)
			defer endBench(b, ch)
			ch.Links(func(l drivers.Link) {
				defer l.Close()
				f := &drivers.Frame{Kind: drivers.KindNotify, Method: methodSink, Payload: make([]byte, s.size)}
				b.SetBytes(int64(s.size))
				b.ReportAllocs()
				for b.Loop() {
					if err := l.Send(ctx, f); err != nil {
						b.Fatal(err)
					}
				}
				if err := l.Send(ctx, &drivers.Frame{Kind: drivers.KindRequest, Method: methodCount}); err != nil {
					b.Fatal(err)
				}
				if _, err := next(ctx, l); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

func endBench(b *testing.B, ch *socket.Channel) {
	_ = ch.Process().Signal(os.Kill)
	select {
	case <-ch.Process().Done():
	case <-time.After(testTimeout):
		b.Fatal("the worker does not end")
	}
	require.NoError(b, ch.Close())
}
