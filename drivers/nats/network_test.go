package natsipc_test

import (
	"context"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
)

// proxy lets connections through to another address, until the test ends. carry moves what one end sends to the other, until one of
// them, or over, is closed. Each connection is cut after a random time of about life, if that is not 0.
func proxy(t *testing.T, to string, life time.Duration, carry func(dst, src net.Conn, over <-chan struct{})) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var all sync.WaitGroup
	over := make(chan struct{})
	all.Go(func() {
		for {
			here, err := l.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("tcp", to)
			if err != nil {
				here.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{here, there}, {there, here}} {
				all.Go(func() {
					defer way[0].Close()
					defer way[1].Close()
					carry(way[0], way[1], over)
				})
			}
			all.Go(func() {
				var timer <-chan time.Time
				if life > 0 {
					timer = time.After(time.Duration(float64(life) * (0.5 + rand.Float64())))
				}
				select {
				case <-timer:
				case <-over:
				}
				here.Close()
				there.Close()
			})
		}
	})
	t.Cleanup(func() {
		close(over)
		l.Close()
		all.Wait()
	})
	return "nats://" + l.Addr().String()
}

// badNetwork lets connections through to another address: what they carry is late, in odd pieces, and now and then stands still, as if
// packets were lost; and it cuts them after random times, if that is not 0.
func badNetwork(t *testing.T, to string, life time.Duration) (addr string) {
	t.Helper()
	return proxy(t, to, life, func(dst, src net.Conn, over <-chan struct{}) {
		for b := make([]byte, 16<<10); ; {
			n, err := src.Read(b[:1+rand.IntN(len(b))])
			pause := time.Duration(rand.IntN(3000)) * time.Microsecond
			if rand.IntN(200) == 0 {
				pause = 100 * time.Millisecond
			}
			select {
			case <-time.After(pause):
			case <-over:
				return
			}
			if _, err2 := dst.Write(b[:n]); err != nil || err2 != nil {
				return
			}
		}
	})
}

// Through a network with delay, loss and cuts, calls that may be made again all succeed, others succeed or say why not, and what of a stream has
// come is its beginning.
func TestBadNetwork(t *testing.T) {
	for name, life := range map[string]time.Duration{"late": 0, "cut": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			srv := natstest.Start(t, nil)
			url := badNetwork(t, strings.TrimPrefix(srv.ClientURL(), "nats://"), life)
			stubborn := []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond), nats.RetryOnFailedConnect(true)}
			connect := func() *nats.Conn {
				nc, err := nats.Connect(url, stubborn...)
				require.NoError(t, err)
				t.Cleanup(nc.Close)
				return nc
			}
			there := natstest.Connect(t, srv)
			if life == 0 { // nobody serves while its connection is away
				there = connect()
			}
			s, _ := newServer()
			serve(t, natstest.Connect(t, srv), func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
			beat := 250 * time.Millisecond // what was cut off is lost
			if life == 0 {
				beat = 5 * time.Second // nothing is lost, and a busy machine makes all much later
			}
			c := natsipc.Caller(connect(), "test", natsipc.WithHeartbeat(beat), natsipc.WithRetry(100))
			defer c.Close()
			var callers sync.WaitGroup
			for i := range 4 {
				callers.Go(func() {
					for n := range 60 {
						got, err := redouble.Call(t.Context(), c, n)
						if err != nil || got != 2*n {
							t.Errorf("%d twice: %d, %v", n, got, err)
							return
						}
						if n%20 != i {
							continue
						}
						large := make([]byte, 1<<20+n)
						if b, err := echo.Call(t.Context(), c, large); err == nil && len(b) != len(large) || err != nil && ipc.CodeOf(err) != ipc.CodeUnavailable {
							t.Errorf("%d of %d bytes: %v", len(b), len(large), err)
						}
						next := 0
						for got, err := range numbers.Stream(t.Context(), c, counting{N: 20_000}) {
							if err != nil {
								if ipc.CodeOf(err) != ipc.CodeUnavailable || life == 0 {
									t.Errorf("a stream ends with %v", err)
								}
								break
							}
							if got != next {
								t.Errorf("%d, where %d is next", got, next)
								return
							}
							next++
						}
						if life == 0 && next != 20_000 {
							t.Errorf("a stream of %d", next)
						}
					}
				})
			}
			over := make(chan struct{})
			go func() { callers.Wait(); close(over) }()
			select {
			case <-over:
			case <-time.After(2 * time.Minute):
				t.Fatal("it hangs")
			}
		})
	}
}
