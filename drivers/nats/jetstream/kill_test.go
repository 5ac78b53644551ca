//go:build unix

package jetipc_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	jetipc "github.com/tandemipc/tandem/drivers/nats/jetstream"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// host runs the pipeline of the tests that kill, from stream IN into stream OUT, until all of IN is done.
func host(ctx context.Context, url string) error {
	nc, err := nats.Connect(url, append(stubborn, nats.RetryOnFailedConnect(true))...)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(20*time.Second))
	if err != nil {
		return err
	}
	workers, err := newPool(2)
	if err != nil {
		return err
	}
	defer workers.Close()
	consumer, err := js.Consumer(ctx, "IN", "work")
	if err != nil {
		return err
	}
	source, err := jetipc.NewSource[uint64](ctx, js, consumer, jetipc.Drain())
	if err != nil {
		return err
	}
	sink, err := jetipc.NewSink[uint64](ctx, js, "OUT", source.Origin())
	if err != nil {
		return err
	}
	defer sink.Close()
	flow := pipeline.Through(pipeline.FromNumbered(source), parts, workers, pipeline.Deaths(1000))
	if err := pipeline.Flatten(flow).Into(ctx, sink); err != nil {
		return err
	}
	fmt.Println(sink.Stats().Doubled)
	return nil
}

// requireParts fails unless a stream has each part of the numbers before n once.
func requireParts(t testing.TB, js jetstream.JetStream, stream string, n uint64) {
	t.Helper()
	got := contents(t, js, stream)
	lost, doubled, want := 0, 0, 0
	for i := range n {
		for part := range i % 3 {
			want++
			switch got[i<<8|part] {
			case 0:
				lost++
			case 1:
			default:
				doubled++
			}
		}
	}
	require.Zero(t, lost, "lost")
	require.Zero(t, doubled, "doubled")
	require.Len(t, got, want)
}

// Processes that share a source are killed again and again, wherever they are, and with them now and then the server, which is
// a process, too. In the end the sink's stream has each record once.
func TestExactlyOnceWhateverIsKilled(t *testing.T) {
	const records = 30_000
	srv := startNATS(t)
	js := connect(t, srv.url)
	newStream(t, js, jetstream.StreamConfig{Name: "IN", Duplicates: time.Hour})
	newStream(t, js, jetstream.StreamConfig{Name: "OUT", Duplicates: time.Hour})
	newConsumer(t, js, "IN", jetstream.ConsumerConfig{AckWait: time.Second, MaxAckPending: 3000})
	publish(t, js, "IN", records)

	const kills = 7 // of each
	var hosts sync.WaitGroup
	var mu sync.Mutex
	doubled, inTheMiddle := 0, 0
	for i := range uint64(2) {
		hosts.Go(func() {
			random := rand.New(rand.NewPCG(i, 7))
			for killed := 0; ; killed++ {
				h, out := role(t, "host "+srv.url)
				if killed < kills {
					// Somewhere in its work, or before, or in that of the other one.
					goal := min(messages(t, js, "OUT")+1+random.Uint64N(2000), records-1)
					eventually(t, "the sink grows", func() bool { return messages(t, js, "OUT") >= goal })
					_ = h.Process.Signal(syscall.SIGKILL)
					_ = h.Wait()
					if messages(t, js, "OUT") < records {
						mu.Lock()
						inTheMiddle++
						mu.Unlock()
					}
					if i == 0 && killed%3 == 2 {
						srv.restart()
					}
					continue
				}
				line, err := out.ReadString('\n')
				if err != nil {
					t.Errorf("%s%v", line, err)
					return
				}
				var n int
				_, _ = fmt.Sscan(line, &n)
				mu.Lock()
				doubled += n
				mu.Unlock()
				return
			}
		})
	}
	require.NoError(t, within(t, func() error { hosts.Wait(); return nil }))
	requireParts(t, js, "OUT", records)
	require.Positive(t, inTheMiddle)
	t.Logf("%d records came again to the last two of %d processes, %d of which were killed in the middle", doubled, 2*kills+2, inTheMiddle)
}

// The server is killed while a pipeline runs, which goes on.
func TestServerIsKilled(t *testing.T) {
	for name, opts := range map[string][]jetipc.SinkOption{"window": nil, "forever": {jetipc.Forever()}} {
		t.Run(name, func(t *testing.T) {
			const records = 20_000
			srv := startNATS(t)
			js := connect(t, srv.url)
			newStream(t, js, jetstream.StreamConfig{Name: "IN", Duplicates: time.Hour})
			newStream(t, js, jetstream.StreamConfig{Name: "OUT"})
			newConsumer(t, js, "IN", jetstream.ConsumerConfig{AckWait: time.Second, MaxAckPending: 3000})
			publish(t, js, "IN", records)
			consumer, err := js.Consumer(t.Context(), "IN", "work")
			require.NoError(t, err)
			source, err := jetipc.NewSource[uint64](t.Context(), js, consumer, jetipc.Drain())
			require.NoError(t, err)
			sink, err := jetipc.NewSink[uint64](t.Context(), js, "OUT", source.Origin(), opts...)
			require.NoError(t, err)
			defer sink.Close()
			split := pipeline.Apply(pipeline.FromNumbered(source), "split", func(_ context.Context, n uint64) ([]uint64, error) {
				return []uint64{n << 8, n<<8 | 1}[:n%3], nil
			})
			over := make(chan error, 1)
			go func() { over <- pipeline.Flatten(split).Into(t.Context(), sink) }()
			for i := range uint64(4) {
				eventually(t, "the sink grows", func() bool { return messages(t, js, "OUT") >= i*records/5+1 })
				srv.restart()
			}
			require.NoError(t, within(t, func() error { return <-over }))
			requireParts(t, js, "OUT", records)
			s := sink.Stats()
			require.GreaterOrEqual(t, s.Stored, messages(t, js, "OUT"))
			require.Zero(t, s.InFlight+s.InFlightBytes)
			t.Logf("%+v", s)
		})
	}
}
