package natsipc_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
)

// frozenNetwork lets connections through to another address while gate has its token. Otherwise it reads nothing, like a server that is stopped.
func frozenNetwork(t *testing.T, to string) (addr string, gate chan struct{}) {
	t.Helper()
	gate = make(chan struct{}, 1)
	gate <- struct{}{}
	return proxy(t, to, 0, func(dst, src net.Conn, over <-chan struct{}) {
		for b := make([]byte, 16<<10); ; {
			select {
			case token := <-gate:
				gate <- token
			case <-over:
				return
			}
			n, err := src.Read(b)
			if err != nil {
				return
			}
			if _, err := dst.Write(b[:n]); err != nil {
				return
			}
		}
	}), gate
}

// When the server of NATS is stopped, and takes nothing any more, calls, streams and services end as the connection's own timeouts say. When it
// goes on, so do they.
func TestNATSIsStopped(t *testing.T) {
	for name, who := range map[string]struct{ caller, service bool }{"for the caller": {true, false}, "for the service": {false, true}, "for both": {true, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natstest.Start(t, nil)
			url, gate := frozenNetwork(t, strings.TrimPrefix(srv.ClientURL(), "nats://"))
			connect := func(through bool) *nats.Conn {
				u := srv.ClientURL()
				if through {
					u = url
				}
				nc, err := nats.Connect(u, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.Timeout(10*time.Second),
					nats.FlusherTimeout(2*time.Second), nats.ReconnectOnFlusherError(), nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2),
					nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
				require.NoError(t, err)
				t.Cleanup(nc.Close)
				return nc
			}
			s, _ := newServer()
			hasty := service
			hasty.Grace = time.Second
			there := connect(who.service)
			stop := serve(t, natstest.Connect(t, srv), func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, hasty) })
			c := natsipc.Caller(connect(who.caller), "test", natsipc.WithHeartbeat(time.Second))
			defer c.Close()

			var callers sync.WaitGroup
			var good atomic.Int64
			var enough atomic.Bool
			for range 8 {
				callers.Go(func() {
					b := make([]byte, 200<<10)
					for !enough.Load() && t.Context().Err() == nil {
						ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						if _, err := echo.Call(ctx, c, b); err == nil {
							good.Add(1)
						}
						cancel()
					}
				})
			}
			callsSucceed := func() {
				now := good.Load()
				require.Eventually(t, func() bool { return good.Load() >= now+20 }, time.Minute, time.Millisecond)
			}
			streams := make(chan error, 8)
			for range cap(streams) {
				go func() {
					var err error
					for _, err = range numbers.Stream(t.Context(), c, counting{N: 1 << 30}) {
						if err != nil {
							break
						}
					}
					streams <- err
				}()
			}
			callsSucceed()
			<-gate
			for range cap(streams) {
				require.Error(t, within(t, streams))
			}
			gate <- struct{}{}
			callsSucceed()
			<-gate
			enough.Store(true)
			over := make(chan error, 1)
			go func() { callers.Wait(); over <- nil }()
			_ = within(t, over)
			go func() { over <- c.Close() }()
			require.NoError(t, within(t, over))
			go func() { over <- stop() }()
			_ = within(t, over)
			gate <- struct{}{}
		})
	}
}
