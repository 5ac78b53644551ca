package natsipc_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
)

// startCluster runs three servers of NATS that know each other.
func startCluster(t testing.TB) (servers []*server.Server) {
	t.Helper()
	for i := range 3 {
		servers = append(servers, natstest.Start(t, func(o *server.Options) {
			o.JetStream, o.ServerName = false, fmt.Sprint("s", i)
			o.Cluster.Name, o.Cluster.Host, o.Cluster.Port = "test", "127.0.0.1", server.RANDOM_PORT
			if i > 0 {
				o.Routes = server.RoutesFromStr("nats://" + servers[0].ClusterAddr().String())
			}
		}))
	}
	require.Eventually(t, func() bool {
		for _, s := range servers {
			if s.NumRemotes() < 2 {
				return false
			}
		}
		return true
	}, 30*time.Second, time.Millisecond)
	return servers
}

// In a cluster of three one server after another goes and comes back no more, with callers and services connected to it: calls that may be
// made again all succeed, others succeed or say why not, and streams end or go on. Nothing hangs, and no answer is another one's.
func TestClusterLosesServers(t *testing.T) {
	servers := startCluster(t)
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.ClientURL())
	}
	connect := func(first int) *nats.Conn { // to that one, as long as it is there
		order := append(append([]string{}, urls[first:]...), urls[:first]...)
		nc, err := nats.Connect(strings.Join(order, ","), nats.DontRandomize(), nats.Timeout(time.Minute), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		return nc
	}
	for i := range servers {
		nc := connect(i)
		s, _ := newServer()
		serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	}
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	var good, bad, streams atomic.Int64
	for i := range 6 {
		c := natsipc.Caller(connect(i%3), "test", natsipc.WithHeartbeat(50*time.Millisecond), natsipc.WithRetry(20))
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		callers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				switch i % 3 {
				case 0:
					got, err := redouble.Call(context.Background(), c, n, ipc.WithTimeout(time.Minute))
					if err != nil || got != 2*n {
						t.Errorf("%d twice: %d, %v", n, got, err)
						return
					}
				case 1:
					got, err := double.Call(context.Background(), c, n, ipc.WithTimeout(time.Minute))
					if err == nil && got == 2*n {
						good.Add(1)
					} else if bad.Add(1); ipc.CodeOf(err) != ipc.CodeUnavailable {
						t.Errorf("%d twice: %d, %v", n, got, err)
						return
					}
				case 2:
					next := 0
					for i, err := range numbers.Stream(context.Background(), c, counting{N: 3000}, ipc.WithTimeout(time.Minute)) {
						if err != nil {
							if ipc.CodeOf(err) != ipc.CodeUnavailable {
								t.Errorf("a stream ends with %v", err)
							}
							break
						}
						if i != next {
							t.Errorf("%d in a stream, where %d is next", i, next)
						}
						if next++; next == 3000 {
							streams.Add(1)
						}
					}
				}
			}
		})
	}
	progress := func() {
		calls, whole := good.Load(), streams.Load()
		require.Eventually(t, func() bool { return good.Load() > calls+20 && streams.Load() > whole+2 }, time.Minute, time.Millisecond)
	}
	progress()
	for _, s := range servers[:2] {
		s.Shutdown()
		s.WaitForShutdown()
		progress()
	}
	cancel()
	within(t, func() chan struct{} {
		over := make(chan struct{})
		go func() { callers.Wait(); close(over) }()
		return over
	}())
	t.Logf("%d calls, %d failed; %d streams", good.Load(), bad.Load(), streams.Load())
}
