//go:build unix

package jetipc_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	jetipc "github.com/tandemipc/tandem/drivers/nats/jetstream"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// inStream makes stream IN with so many numbers, and a source of it.
func inStream(t testing.TB, js jetstream.JetStream, records uint64, c jetstream.ConsumerConfig, opts ...jetipc.SourceOption) (*jetipc.Source[uint64], jetstream.Consumer) {
	t.Helper()
	newStream(t, js, jetstream.StreamConfig{Name: "IN"})
	consumer := newConsumer(t, js, "IN", c)
	publish(t, js, "IN", records)
	source, err := jetipc.NewSource[uint64](t.Context(), js, consumer, opts...)
	require.NoError(t, err)
	return source, consumer
}

// requireNumbers fails unless the items are the numbers before n, each once, with the sequence of its message as its position.
func requireNumbers(t testing.TB, items []pipeline.Item[uint64], n uint64) {
	t.Helper()
	got := slices.Clone(items)
	slices.SortFunc(got, func(a, b pipeline.Item[uint64]) int { return int(a.Record) - int(b.Record) })
	require.Len(t, got, int(n))
	for i, item := range got {
		require.EqualValues(t, i, item.Record)
		require.Equal(t, pipeline.ID{Pos: uint64(i) + 1}, item.ID)
	}
}

// pending returns how many messages of a consumer are not delivered, and how many not acknowledged.
func pending(t testing.TB, c jetstream.Consumer) (undelivered uint64, unacknowledged int) {
	t.Helper()
	info, err := c.Info(t.Context())
	require.NoError(t, err)
	return info.NumPending, info.NumAckPending
}

// A source asks for no more than its consumer allows, and ends when that allows less than before.
func TestSourceWithinTheConsumersLimits(t *testing.T) {
	js := start(t)
	limits := jetstream.ConsumerConfig{MaxRequestBatch: 7, MaxRequestExpires: 2 * time.Second, MaxRequestMaxBytes: 2 << 20}
	source, consumer := inStream(t, js, 100, limits, jetipc.Ahead(50, 8<<20))
	taken := make(chan uint64, 1000)
	ended := make(chan error, 1)
	go func() {
		ended <- pipeline.FromNumbered[uint64](source).Into(t.Context(), sinkFunc[uint64](func(_ context.Context, items []pipeline.Item[uint64]) error {
			for _, item := range items {
				taken <- item.Record
			}
			return nil
		}))
	}()
	for i := range uint64(100) {
		require.Equal(t, i, await(t, taken))
	}
	c := consumer.CachedInfo().Config
	c.MaxRequestBatch = 3
	_, err := js.UpdateConsumer(t.Context(), "IN", c)
	require.NoError(t, err)
	require.ErrorContains(t, await(t, ended), "refuses the requests")
}

// await returns what comes, and fails the test if nothing does.
func await[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		t.Fatal("it hangs")
	}
	return v
}

// All that was there is taken, is acknowledged when the sink has it, and then the run is over.
func TestSourceDrains(t *testing.T) {
	js := start(t)
	source, consumer := inStream(t, js, 5000, jetstream.ConsumerConfig{}, jetipc.Drain(), jetipc.Ahead(10, 1000))
	n, err := source.Pending(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 5000, n)
	var got collector[uint64]
	require.NoError(t, within(t, func() error { return pipeline.FromNumbered(source).Into(t.Context(), &got) }))
	requireNumbers(t, got.items, 5000)
	undelivered, unacknowledged := pending(t, consumer)
	require.Zero(t, undelivered)
	require.Zero(t, unacknowledged)
	// There is nothing left, so the next run is over at once.
	require.NoError(t, within(t, func() error { return pipeline.FromNumbered(source).Into(t.Context(), &got) }))
	require.Equal(t, 5000, got.len())
}

// A source that drains ends, though more and more comes.
func TestSourceDrainsUnderLoad(t *testing.T) {
	js := start(t)
	source, _ := inStream(t, js, 1000, jetstream.ConsumerConfig{}, jetipc.Drain())
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	publishing.Go(func() {
		b, _ := ipc.Marshal(ipc.CBOR, nil, uint64(1))
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = js.Publish(context.Background(), "IN", b)
			}
		}
	})
	var got collector[uint64]
	err := within(t, func() error { return pipeline.FromNumbered(source).Into(t.Context(), &got) })
	close(stop)
	publishing.Wait()
	require.NoError(t, err)
	require.GreaterOrEqual(t, got.len(), 1000)
}

// Without Drain a source goes on until its context ends.
func TestSourceFollows(t *testing.T) {
	js := start(t)
	source, consumer := inStream(t, js, 100, jetstream.ConsumerConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got collector[uint64]
	over := make(chan error, 1)
	go func() { over <- pipeline.FromNumbered(source).Into(ctx, &got) }()
	eventually(t, "all are taken", func() bool { return got.len() == 100 })
	b, err := ipc.Marshal(ipc.CBOR, nil, uint64(100))
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "IN", b)
	require.NoError(t, err)
	eventually(t, "the next one is taken", func() bool { return got.len() == 101 })
	cancel()
	require.ErrorIs(t, within(t, func() error { return <-over }), context.Canceled)
	requireNumbers(t, got.items, 101)
	eventually(t, "all are acknowledged", func() bool { _, n := pending(t, consumer); return n == 0 })
}

// Nothing is acknowledged that the sink has not taken: a failed run gives all back at once, and the next one takes them, with the
// positions that they had. AckWait is so long that it plays no part, and the run fails when nothing is on its way from the server.
func TestSourceGivesBack(t *testing.T) {
	js := start(t)
	source, consumer := inStream(t, js, 1000, jetstream.ConsumerConfig{AckWait: 30 * time.Second}, jetipc.Drain(), jetipc.Ahead(2000, 1<<20))
	errBad := errors.New("bad")
	var got collector[uint64]
	sink := sinkFunc[uint64](func(ctx context.Context, items []pipeline.Item[uint64]) error {
		if got.len() >= 300 {
			eventually(t, "the server has sent all", func() bool { n, _ := pending(t, consumer); return n == 0 })
			return errBad
		}
		return got.Write(ctx, items)
	})
	require.ErrorIs(t, within(t, func() error { return pipeline.FromNumbered(source).Into(t.Context(), sink) }), errBad)
	_, unacknowledged := pending(t, consumer)
	require.LessOrEqual(t, 1000-got.len(), unacknowledged)
	require.NoError(t, within(t, func() error { return pipeline.FromNumbered(source).Into(t.Context(), &got) }))
	requireNumbers(t, got.items, 1000)
}

// A process that takes longer than AckWait keeps its records, and no other one gets them.
func TestSourceKeepsWhatIsSlow(t *testing.T) {
	js := start(t)
	const wait = 200 * time.Millisecond
	source, consumer := inStream(t, js, 10, jetstream.ConsumerConfig{AckWait: wait}, jetipc.Drain())
	second, err := jetipc.NewSource[uint64](t.Context(), js, consumer, jetipc.Drain())
	require.NoError(t, err)
	hold := make(chan struct{})
	var got, other collector[uint64]
	began := make(chan struct{}, 1000)
	sink := sinkFunc[uint64](func(ctx context.Context, items []pipeline.Item[uint64]) error {
		began <- struct{}{}
		<-hold
		return got.Write(ctx, items)
	})
	var runs sync.WaitGroup
	var err1, err2 error
	runs.Go(func() { err1 = pipeline.FromNumbered(source).Into(t.Context(), sink) })
	<-began
	runs.Go(func() { err2 = pipeline.FromNumbered(second).Into(t.Context(), &other) })
	// The server would have given the record to the other one several times.
	time.Sleep(5 * wait)
	close(hold)
	require.NoError(t, within(t, func() error { runs.Wait(); return nil }))
	require.NoError(t, err1)
	require.NoError(t, err2)
	// On a machine that stops for longer than AckWait some may come twice; none is missing.
	all := append(got.items, other.items...)
	slices.SortFunc(all, func(a, b pipeline.Item[uint64]) int { return int(a.Record) - int(b.Record) })
	all = slices.CompactFunc(all, func(a, b pipeline.Item[uint64]) bool { return a.ID == b.ID })
	requireNumbers(t, all, 10)
}

// A run holds no more than Ahead, in messages and in bytes, of what its pipeline has not taken.
func TestSourceIsBounded(t *testing.T) {
	js := start(t)
	newStream(t, js, jetstream.StreamConfig{Name: "IN"})
	consumer := newConsumer(t, js, "IN", jetstream.ConsumerConfig{AckWait: time.Hour})
	for range 60 {
		_, err := js.Publish(t.Context(), "IN", make([]byte, 200<<10))
		require.NoError(t, err)
	}
	for _, test := range []struct{ messages, bytes, most int }{
		{5, 1 << 30, 6},
		{60, 1, 7}, // max_payload and 64 KiB more, and the one that is in the sink
		{60, 4 << 20, 22},
	} {
		source, err := jetipc.NewSource[[]byte](t.Context(), js, consumer, jetipc.Decode(ipc.Raw), jetipc.Ahead(test.messages, test.bytes))
		require.NoError(t, err)
		hold, began := make(chan struct{}), make(chan struct{}, 100)
		sink := sinkFunc[[]byte](func(context.Context, []pipeline.Item[[]byte]) error {
			began <- struct{}{}
			<-hold
			return errors.New("over")
		})
		over := make(chan error, 1)
		go func() { over <- pipeline.FromNumbered(source).Into(t.Context(), sink) }()
		<-began
		before := -1
		eventually(t, "it fetches no more", func() bool {
			_, n := pending(t, consumer)
			same := n == before
			before = n
			time.Sleep(100 * time.Millisecond)
			return same && n > 1
		})
		require.LessOrEqual(t, before, test.most)
		close(hold)
		require.ErrorContains(t, within(t, func() error { return <-over }), "over")
	}
}

// What cannot be decoded ends the run, with the message's number, unless something takes it.
func TestSourcePoison(t *testing.T) {
	js := start(t)
	source, consumer := inStream(t, js, 10, jetstream.ConsumerConfig{AckWait: time.Hour}, jetipc.Drain())
	_, err := js.Publish(t.Context(), "IN", []byte("\xff"))
	require.NoError(t, err)
	var got collector[uint64]
	err = within(t, func() error { return pipeline.FromNumbered(source).Into(t.Context(), &got) })
	require.ErrorContains(t, err, "message 11")
	var poison []string
	errFull := errors.New("full")
	var failing error
	source, err = jetipc.NewSource[uint64](t.Context(), js, consumer, jetipc.Drain(), jetipc.Poison(func(_ context.Context, m *nats.Msg, why error) error {
		if failing != nil {
			return failing
		}
		poison = append(poison, string(m.Data))
		if why == nil || !strings.Contains(why.Error(), "decode") {
			t.Error("why", why)
		}
		return nil
	}))
	require.NoError(t, err)
	failing = errFull
	require.ErrorIs(t, within(t, func() error { return pipeline.FromNumbered(source).Into(t.Context(), &got) }), errFull)
	failing = nil
	require.NoError(t, within(t, func() error { return pipeline.FromNumbered(source).Into(t.Context(), &got) }))
	require.Equal(t, []string{"\xff"}, poison)
	requireNumbers(t, got.items, 10)
	_, unacknowledged := pending(t, consumer)
	require.Zero(t, unacknowledged)
}

// A consumer that would lose messages is refused.
func TestSourceRefuses(t *testing.T) {
	js := start(t)
	newStream(t, js, jetstream.StreamConfig{Name: "IN"})
	for why, c := range map[string]jetstream.ConsumerConfig{
		"explicit":             {AckPolicy: jetstream.AckAllPolicy},
		"MaxDeliver":           {AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 5},
		"any message can come": {AckPolicy: jetstream.AckExplicitPolicy, MaxRequestMaxBytes: 1000},
	} {
		consumer, err := js.CreateConsumer(t.Context(), "IN", c)
		require.NoError(t, err)
		_, err = jetipc.NewSource[uint64](t.Context(), js, consumer)
		require.ErrorContains(t, err, why)
	}
	consumer := newConsumer(t, js, "IN", jetstream.ConsumerConfig{})
	require.NoError(t, js.DeleteConsumer(t.Context(), "IN", "work"))
	_, err := jetipc.NewSource[uint64](t.Context(), js, consumer)
	require.ErrorIs(t, err, jetstream.ErrConsumerNotFound)
}

// A consumer, a stream or a connection that goes away ends a run with an error, also while its records are in the sink.
func TestSourceGoesAway(t *testing.T) {
	for name, test := range map[string]struct {
		away func(t *testing.T, js jetstream.JetStream)
		errs []error
	}{
		"consumer": {func(t *testing.T, js jetstream.JetStream) {
			require.NoError(t, js.DeleteConsumer(t.Context(), "IN", "work"))
		},
			[]error{jetstream.ErrConsumerDeleted, jetstream.ErrConsumerNotFound}},
		"stream": {func(t *testing.T, js jetstream.JetStream) { require.NoError(t, js.DeleteStream(t.Context(), "IN")) },
			[]error{jetstream.ErrConsumerDeleted, jetstream.ErrConsumerNotFound, jetstream.ErrStreamNotFound}},
		"connection": {func(_ *testing.T, js jetstream.JetStream) { js.Conn().Close() }, []error{nats.ErrConnectionClosed}},
	} {
		for _, holding := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				js := start(t)
				source, _ := inStream(t, js, 10, jetstream.ConsumerConfig{})
				hold := make(chan struct{})
				var got collector[uint64]
				taken := make(chan struct{}, 10)
				sink := sinkFunc[uint64](func(ctx context.Context, items []pipeline.Item[uint64]) error {
					taken <- struct{}{}
					if holding {
						<-hold
					}
					return got.Write(ctx, items)
				})
				over := make(chan error, 1)
				go func() { over <- pipeline.FromNumbered(source).Into(t.Context(), sink) }()
				<-taken
				if !holding {
					eventually(t, "all are taken", func() bool { return got.len() == 10 })
				}
				test.away(t, js)
				close(hold)
				err := within(t, func() error { return <-over })
				require.Error(t, err)
				require.True(t, slices.ContainsFunc(test.errs, func(e error) bool { return errors.Is(err, e) }), "%v", err)
			})
		}
	}
}

// A run that fails after the connection was made anew gives back at once what it has taken, and does not leave that to AckWait.
func TestSourceGivesBackAfterReconnect(t *testing.T) {
	js := start(t)
	newStream(t, js, jetstream.StreamConfig{Name: "IN"})
	consumer := newConsumer(t, js, "IN", jetstream.ConsumerConfig{AckWait: time.Hour, MaxAckPending: 1}) // so that nothing is on its way
	publish(t, js, "IN", 5)
	source, err := jetipc.NewSource[uint64](t.Context(), js, consumer)
	require.NoError(t, err)
	errBad := errors.New("bad")
	came, fail := make(chan struct{}, 5), make(chan struct{})
	over := make(chan error, 1)
	go func() {
		over <- pipeline.FromNumbered(source).Into(t.Context(), sinkFunc[uint64](func(_ context.Context, items []pipeline.Item[uint64]) error {
			for range items {
				came <- struct{}{}
			}
			<-fail
			return errBad
		}))
	}()
	eventually(t, "a record comes", func() bool { return len(came) == 1 })
	require.NoError(t, js.Conn().ForceReconnect())
	eventually(t, "the connection is made anew", func() bool { return js.Conn().Stats().Reconnects == 1 && js.Conn().IsConnected() })
	close(fail)
	require.ErrorIs(t, within(t, func() error { return <-over }), errBad)
	source, err = jetipc.NewSource[uint64](t.Context(), js, consumer, jetipc.Drain())
	require.NoError(t, err)
	var got collector[uint64]
	require.NoError(t, within(t, func() error { return pipeline.FromNumbered(source).Into(t.Context(), &got) }))
	require.Equal(t, 5, got.len())
}
