//go:build unix

package jetipc_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	jetipc "github.com/tandemipc/tandem/drivers/nats/jetstream"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pipeline"
)

var (
	soak      = flag.Duration("soak", 5*time.Second, "how long TestSoak publishes")
	soakKills = flag.Float64("soak-kills", 2, "how many workers TestSoak kills in a second")
)

// The server is killed and started again five times, workers are killed all the time, and so is another process with the same
// pipeline. The sink's stream has each record once that the source's stream has confirmed.
func TestSoak(t *testing.T) {
	srv := startNATS(t)
	js := connect(t, srv.url)
	newStream(t, js, jetstream.StreamConfig{Name: "IN", Duplicates: time.Hour})
	newStream(t, js, jetstream.StreamConfig{Name: "OUT", Duplicates: time.Hour})
	consumer := newConsumer(t, js, "IN", jetstream.ConsumerConfig{AckWait: time.Second, MaxAckPending: 5000})
	workers, err := newPool(2)
	require.NoError(t, err)
	defer workers.Close()
	run := func(ctx context.Context, opts ...jetipc.SourceOption) error {
		source, err := jetipc.NewSource[uint64](context.Background(), js, consumer, opts...)
		if err != nil {
			return err
		}
		sink, err := jetipc.NewSink[uint64](context.Background(), js, "OUT", source.Origin())
		if err != nil {
			return err
		}
		defer sink.Close()
		flow := pipeline.Through(pipeline.FromNumbered(source), parts, workers, pipeline.Deaths(1000))
		return pipeline.Flatten(flow).Into(ctx, sink, pipeline.Drain(time.Minute))
	}
	var all sync.WaitGroup
	defer all.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var published atomic.Uint64
	all.Go(func() { // publishes
		for n := uint64(0); ctx.Err() == nil; n++ {
			b, _ := ipc.Marshal(ipc.CBOR, nil, n)
			for { // until the server has confirmed it
				attempt, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
				_, err := js.Publish(attempt, "IN", b, jetstream.WithMsgID(fmt.Sprint(n)))
				cancel()
				if err == nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			published.Add(1)
		}
	})
	kills, hostKills := 0, 0
	all.Go(func() { // kills workers
		random := rand.New(rand.NewPCG(1, 2))
		every := time.NewTicker(time.Duration(float64(time.Second) / *soakKills))
		defer every.Stop()
		for ctx.Err() == nil {
			<-every.C
			clients := workers.Clients()
			if len(clients) > 0 && syscall.Kill(clients[random.IntN(len(clients))].PID(), syscall.SIGKILL) == nil {
				kills++
			}
		}
	})
	all.Go(func() { // kills the other process, which may also have found that the server is away, or nothing to do
		random := rand.New(rand.NewPCG(3, 4))
		for ctx.Err() == nil {
			h, _ := role(t, "host "+srv.url)
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(300+random.IntN(1500)) * time.Millisecond):
			}
			if h.Process.Signal(syscall.SIGKILL) == nil {
				hostKills++
			}
			_ = h.Wait()
		}
	})
	over := make(chan error, 1)
	go func() { over <- run(ctx) }()
	for range 5 {
		time.Sleep(*soak / 6)
		srv.restart()
	}
	time.Sleep(*soak / 6)
	stop()
	require.NoError(t, within(t, func() error { all.Wait(); return nil }))
	if err := within(t, func() error { return <-over }); !errors.Is(err, context.Canceled) {
		require.NoError(t, err)
	}
	require.NoError(t, within(t, func() error { return run(t.Context(), jetipc.Drain()) }))
	n := published.Load()
	requireParts(t, js, "OUT", n)
	require.Positive(t, n)
	require.Positive(t, kills)
	t.Logf("%d records: none lost, none doubled; killed: the server 5 times, %d workers, %d processes", n, kills, hostKills)
}
