//go:build unix

package jetipc_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	jetipc "github.com/tandemipc/tandem/drivers/nats/jetstream"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// startCluster runs three servers that have JetStream together.
func startCluster(t testing.TB) (servers []*server.Server, js jetstream.JetStream) {
	t.Helper()
	var listeners []net.Listener
	var routes []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listeners = append(listeners, l)
		routes = append(routes, "nats://"+l.Addr().String())
	}
	var urls []string
	for i, l := range listeners {
		require.NoError(t, l.Close())
		s := natstest.Start(t, func(o *server.Options) {
			o.ServerName = fmt.Sprint("s", i)
			o.Cluster.Name, o.Cluster.Host, o.Cluster.Port = "test", "127.0.0.1", l.Addr().(*net.TCPAddr).Port
			o.Routes = server.RoutesFromStr(strings.Join(routes, ","))
		})
		servers = append(servers, s)
		urls = append(urls, s.ClientURL())
	}
	nc, err := nats.Connect(strings.Join(urls, ","), stubborn...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(20*time.Second))
	require.NoError(t, err)
	return servers, js
}

// In a cluster of three, with three replicas of all, the server is shut down that leads the sink's stream: the pipeline goes on, and
// that has each record once.
func TestClusterLosesItsLeader(t *testing.T) {
	const records = 6000
	servers, js := startCluster(t)
	ctx := t.Context()
	for _, name := range []string{"IN", "OUT"} {
		eventually(t, "the cluster takes a stream", func() bool {
			attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			_, err := js.CreateOrUpdateStream(attempt, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3, Storage: jetstream.FileStorage})
			return err == nil
		})
	}
	consumer := newConsumer(t, js, "IN", jetstream.ConsumerConfig{AckWait: time.Second, MaxAckPending: 3000})
	publish(t, js, "IN", records)
	source, err := jetipc.NewSource[uint64](ctx, js, consumer, jetipc.Drain())
	require.NoError(t, err)
	sink := newSink(t, js, "OUT")
	split := pipeline.Apply(pipeline.FromNumbered(source), "split", func(_ context.Context, n uint64) ([]uint64, error) {
		return []uint64{n << 8, n<<8 | 1}[:n%3], nil
	})
	over := make(chan error, 1)
	go func() { over <- pipeline.Flatten(split).Into(ctx, sink) }()
	eventually(t, "the sink grows", func() bool { return messages(t, js, "OUT") > records/10 })
	out, err := js.Stream(ctx, "OUT")
	require.NoError(t, err)
	down := 0
	for _, s := range servers {
		if s.Name() == out.CachedInfo().Cluster.Leader {
			s.Shutdown()
			s.WaitForShutdown()
			down++
		}
	}
	require.Equal(t, 1, down)
	require.NoError(t, within(t, func() error { return <-over }))
	requireParts(t, js, "OUT", records)
	t.Logf("%+v", sink.Stats())
}
