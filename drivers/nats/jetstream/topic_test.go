//go:build unix

package jetipc_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	jetipc "github.com/tandemipc/tandem/drivers/nats/jetstream"
	"github.com/tandemipc/tandem/ipc"
)

type quote struct {
	Key string
	N   int
}

var (
	quotes = ipc.NewTopic[quote]("test.quotes", ipc.LatestBy(func(q quote) string { return q.Key }))
	plain  = ipc.NewTopic[int]("test.plain")
	points = ipc.NewTopic[[2]int]("test.points", ipc.LatestBy(func(p [2]int) any { return p[0] }))
	texts  = ipc.NewTopic[string]("test.plain") // the same name, another type
)

func publisher[T any](t testing.TB, js jetstream.JetStream, topic *ipc.Topic[T]) *jetipc.Publisher[T] {
	t.Helper()
	p, err := jetipc.NewPublisher(t.Context(), js, "T", topic)
	require.NoError(t, err)
	return p
}

func open[T any](t testing.TB, js jetstream.JetStream, topic *ipc.Topic[T], opts ...jetipc.SubscribeOption) *jetipc.Subscription[T] {
	t.Helper()
	s, err := jetipc.Open(t.Context(), js, "T", topic, opts...)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// A record that is published while the server is away is not kept for its return: by then the stream may not know any more that it has it.
func TestPublishWhileDisconnected(t *testing.T) {
	p := startNATS(t)
	nc, err := nats.Connect(p.url, nats.Timeout(time.Minute), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond)) // nats.go keeps messages by default
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	newStream(t, js, jetstream.StreamConfig{Name: "T", Subjects: []string{"T"}})
	pub := publisher(t, js, plain)
	require.NoError(t, pub.Publish(t.Context(), 1))
	p.kill()
	eventually(t, "the connection is down", func() bool { return !nc.IsConnected() })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, pub.Publish(ctx, 2), context.DeadlineExceeded)
	p.again()
	eventually(t, "the connection is back", nc.IsConnected)
	require.NoError(t, nc.Flush())
	eventually(t, "the stream answers", func() bool {
		_, err := js.Stream(t.Context(), "T")
		return err == nil
	})
	require.EqualValues(t, 1, messages(t, js, "T"))
	require.NoError(t, pub.Publish(t.Context(), 3))
	require.EqualValues(t, 2, messages(t, js, "T"))
}

// A stream that allows no further consumer ends a subscription with what the server says.
func TestTopicConsumersLimit(t *testing.T) {
	js := start(t)
	newStream(t, js, jetstream.StreamConfig{Name: "T", Subjects: []string{"T"}, MaxConsumers: 1})
	newConsumer(t, js, "T", jetstream.ConsumerConfig{})
	s := open(t, js, plain)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := s.Receive(ctx)
	require.NoError(t, ctx.Err(), "it hangs")
	require.ErrorContains(t, err, "maximum consumers")
}

// receive returns the next record, or how many are lost.
func receive[T any](t testing.TB, s *jetipc.Subscription[T]) (v T, lost uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	v, err := s.Receive(ctx)
	if l, ok := err.(*ipc.LostError); ok {
		return v, l.Count
	}
	require.NoError(t, err)
	return v, 0
}

// Each start gives the records that it promises, and then what is published later.
func TestTopicStarts(t *testing.T) {
	js := start(t)
	newStream(t, js, jetstream.StreamConfig{Name: "T"})
	p := publisher(t, js, quotes)
	for n := range 10 {
		require.NoError(t, p.Publish(t.Context(), quote{fmt.Sprint("key ", n%3), n}))
	}
	for name, test := range map[string]struct {
		opts  []jetipc.SubscribeOption
		first []int
	}{
		"now":    {nil, nil},
		"oldest": {[]jetipc.SubscribeOption{jetipc.FromOldest()}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
		"number": {[]jetipc.SubscribeOption{jetipc.FromNumber(9)}, []int{8, 9}},
		"latest": {[]jetipc.SubscribeOption{jetipc.FromLatest()}, []int{7, 8, 9}},
	} {
		s := open(t, js, quotes, test.opts...)
		for _, n := range test.first {
			q, lost := receive(t, s)
			require.Zero(t, lost, name)
			require.Equal(t, quote{fmt.Sprint("key ", n%3), n}, q, name)
			require.EqualValues(t, n+1, s.Number())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := s.Receive(ctx)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		defer func() {
			for n := 10; n < 12; n++ {
				q, lost := receive(t, s)
				require.Zero(t, lost, name)
				require.Equal(t, n, q.N, name)
			}
			require.EqualValues(t, len(test.first)+2, s.Stats().Received, name)
		}()
	}
	for n := 10; n < 12; n++ {
		require.NoError(t, p.Publish(t.Context(), quote{"key", n}))
	}
}

// What a stream has dropped by its limits is told exactly, in its place.
func TestTopicTellsLosses(t *testing.T) {
	js := start(t)
	stream := newStream(t, js, jetstream.StreamConfig{Name: "T", MaxMsgs: 10})
	p := publisher(t, js, plain)
	early := open(t, js, plain)
	for n := range 100 {
		require.NoError(t, p.Publish(t.Context(), n))
	}
	for _, s := range []*jetipc.Subscription[int]{early, open(t, js, plain, jetipc.FromNumber(1))} {
		_, lost := receive(t, s)
		require.EqualValues(t, 90, lost)
		for n := 90; n < 100; n++ {
			v, lost := receive(t, s)
			require.Zero(t, lost)
			require.Equal(t, n, v)
		}
		require.Equal(t, ipc.SubscriptionStats{Received: 10, Lost: 90}, s.Stats())
	}
	v, lost := receive(t, open(t, js, plain, jetipc.FromOldest()))
	require.Zero(t, lost)
	require.Equal(t, 90, v)
	// One in the middle, and a purge.
	s := open(t, js, plain, jetipc.FromOldest())
	require.NoError(t, stream.DeleteMsg(t.Context(), 92))
	v, _ = receive(t, s)
	require.Equal(t, 90, v)
	_, lost = receive(t, s)
	require.EqualValues(t, 1, lost)
	require.NoError(t, stream.Purge(t.Context()))
	require.NoError(t, p.Publish(t.Context(), 100))
	late := open(t, js, plain, jetipc.FromNumber(50))
	_, lost = receive(t, late)
	require.EqualValues(t, 51, lost)
	v, _ = receive(t, late)
	require.Equal(t, 100, v)
}

// Subscribers that keep up and some that do not, of a stream whose limits drop what is old and what a key has newer, while the server is killed
// again and again: what one has received and what it was told as lost are all, in order.
func TestTopicAccountsForAll(t *testing.T) {
	const records = 3000
	srv := startNATS(t)
	js := connect(t, srv.url)
	newStream(t, js, jetstream.StreamConfig{Name: "T", MaxMsgs: 700, MaxMsgsPerSubject: 300})
	p := publisher(t, js, quotes)
	random := rand.New(rand.NewPCG(5, 6))
	var subscribers sync.WaitGroup
	published := make(chan struct{})
	for i := range 4 {
		s := open(t, connect(t, srv.url), quotes)
		subscribers.Go(func() {
			next := 0
			for next < records {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				q, err := s.Receive(ctx)
				cancel()
				var lost *ipc.LostError
				switch {
				case errors.As(err, &lost):
					next += int(lost.Count)
					continue
				case err != nil || q.N != next:
					t.Errorf("subscriber %d has %v, %v, and waits for %d", i, q, err, next)
					return
				}
				if next++; i > 1 && next == 100*i {
					<-published
				}
			}
			st := s.Stats()
			if st.Received+st.Lost != records || i > 1 && st.Lost == 0 {
				t.Errorf("subscriber %d: %+v", i, st)
			}
			t.Logf("subscriber %d: %+v", i, st)
		})
	}
	for n := range records {
		// The last record stays, so all come to an end.
		require.NoError(t, p.Publish(t.Context(), quote{fmt.Sprint(random.IntN(5)), n}))
		if n%800 == 799 {
			srv.restart()
		}
	}
	close(published)
	require.NoError(t, within(t, func() error { subscribers.Wait(); return nil }))
	require.LessOrEqual(t, messages(t, js, "T"), uint64(700))
}

// A subscriber that begins with the latest, while records are published, and the server is killed: each key's latest at that time is there, or
// a later one, nothing is missing behind it, and nothing comes twice.
func TestTopicFromLatest(t *testing.T) {
	const records, keys = 4000, 700 // more keys than are fetched at a time
	srv := startNATS(t)
	js := connect(t, srv.url)
	newStream(t, js, jetstream.StreamConfig{Name: "T"})
	p := publisher(t, js, quotes)
	var subscribers sync.WaitGroup
	random := rand.New(rand.NewPCG(7, 8))
	key := make([]int, records)
	for n := range key {
		key[n] = random.IntN(keys)
	}
	for n := range records {
		if n%500 == 200 {
			s := open(t, connect(t, srv.url), quotes, jetipc.FromLatest())
			before := n // so many are there
			subscribers.Go(func() {
				latest := make(map[string]int)
				for last := -1; last < records-1; {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					q, err := s.Receive(ctx)
					cancel()
					if err != nil || q.N <= last || last >= before && q.N != last+1 {
						t.Errorf("%v, %v behind %d", q, err, last)
						return
					}
					if q.N >= before && last < before-1 && q.N != before {
						t.Errorf("%v behind %d, and %d were there", q, last, before)
						return
					}
					last = q.N
					latest[q.Key] = q.N
				}
				want := make(map[string]int)
				for n, k := range key {
					want[fmt.Sprint(k)] = n
				}
				if fmt.Sprint(latest) != fmt.Sprint(want) {
					t.Error("a key is missing")
				}
			})
		}
		require.NoError(t, p.Publish(t.Context(), quote{fmt.Sprint(key[n]), n}))
		if n%1000 == 702 {
			srv.restart()
		}
	}
	require.NoError(t, within(t, func() error { subscribers.Wait(); return nil }))
}

// Keys are what they are, whatever their type and their letters: no two of them are one.
func TestTopicKeys(t *testing.T) {
	js := start(t)
	newStream(t, js, jetstream.StreamConfig{Name: "T"})
	p := publisher(t, js, quotes)
	all := []string{"", " ", "a", "A", "a.b", "a.*", ">", "=", "ü", "\x00\r\n", "a b", "_", "-", string(make([]byte, 5000))}
	for n, k := range append(all, all...) {
		require.NoError(t, p.Publish(t.Context(), quote{k, n}))
	}
	s := open(t, js, quotes, jetipc.FromLatest())
	for n, k := range all {
		q, _ := receive(t, s)
		require.Equal(t, quote{k, n + len(all)}, q)
	}
	newStream(t, js, jetstream.StreamConfig{Name: "P"})
	pp, err := jetipc.NewPublisher(t.Context(), js, "P", points)
	require.NoError(t, err)
	for n := range 6 {
		require.NoError(t, pp.Publish(t.Context(), [2]int{n % 2, n}))
	}
	var got [][2]int
	for v, err := range jetipc.Subscribe(t.Context(), js, "P", points, jetipc.FromLatest()) {
		require.NoError(t, err)
		if got = append(got, v); len(got) == 2 {
			break
		}
	}
	require.Equal(t, [][2]int{{0, 4}, {1, 5}}, got)
}

// An empty topic has no latest records; the first one that is published comes.
func TestTopicFromLatestOfNothing(t *testing.T) {
	js := start(t)
	stream := newStream(t, js, jetstream.StreamConfig{Name: "T"})
	p := publisher(t, js, quotes)
	for n := range 3 {
		s := open(t, js, quotes, jetipc.FromLatest())
		require.NoError(t, p.Publish(t.Context(), quote{"k", n}))
		q, lost := receive(t, s)
		require.Zero(t, lost)
		require.Equal(t, n, q.N)
		require.NoError(t, stream.Purge(t.Context()))
	}
}

// How a subscription ends.
func TestTopicEnds(t *testing.T) {
	js := start(t)
	newStream(t, js, jetstream.StreamConfig{Name: "T"})
	p := publisher(t, js, plain)
	over := make(chan error, 1)
	s := open(t, js, plain)
	go func() { _, err := s.Receive(context.Background()); over <- err }()
	s.Close()
	require.ErrorIs(t, within(t, func() error { return <-over }), ipc.ErrClosed)
	_, err := s.Receive(t.Context())
	require.ErrorIs(t, err, ipc.ErrClosed)

	bad := open(t, js, texts)
	require.NoError(t, p.Publish(t.Context(), 7))
	_, err = bad.Receive(t.Context())
	require.Equal(t, ipc.CodeInternal, ipc.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "record 1 of")

	other := connect(t, js.Conn().ConnectedUrl())
	closed := open(t, other, plain)
	go func() { _, err := closed.Receive(context.Background()); over <- err }()
	other.Conn().Close()
	require.ErrorIs(t, within(t, func() error { return <-over }), nats.ErrConnectionClosed)

	s = open(t, js, plain)
	go func() { _, err := s.Receive(context.Background()); over <- err }()
	require.NoError(t, js.DeleteStream(t.Context(), "T"))
	require.ErrorIs(t, within(t, func() error { return <-over }), jetstream.ErrStreamNotFound)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Publish(ctx, 1), context.DeadlineExceeded)
	for _, err := range jetipc.Subscribe(t.Context(), js, "T", plain) {
		require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
	}
}

// What could not be told exactly is refused, and so is a record that cannot be published.
func TestTopicRefuses(t *testing.T) {
	js := start(t)
	ctx := t.Context()
	refused := func(subject, want string) {
		t.Helper()
		_, err := jetipc.NewPublisher(ctx, js, subject, plain)
		require.ErrorContains(t, err, want)
		_, err = jetipc.Open(ctx, js, subject, plain)
		require.ErrorContains(t, err, want)
	}
	refused("none", "stream not found")
	refused("a..b", "a part of a subject")
	newStream(t, js, jetstream.StreamConfig{Name: "two", Subjects: []string{"two", "other"}})
	refused("two", "a stream of its own")
	newStream(t, js, jetstream.StreamConfig{Name: "wild", Subjects: []string{"wild.>"}})
	refused("wild.x", "a stream of its own")
	newStream(t, js, jetstream.StreamConfig{Name: "work", Retention: jetstream.WorkQueuePolicy})
	refused("work", "retention")
	newStream(t, js, jetstream.StreamConfig{Name: "mute", NoAck: true})
	refused("mute", "NoAck")
	newStream(t, js, jetstream.StreamConfig{Name: "T", MaxMsgSize: 1000})
	_, err := jetipc.Open(ctx, js, "T", plain, jetipc.FromLatest())
	require.Equal(t, ipc.CodeFailedPrecondition, ipc.CodeOf(err))
	p, err := jetipc.NewPublisher(ctx, js, "T", texts)
	require.NoError(t, err)
	var api *jetstream.APIError
	require.ErrorAs(t, p.Publish(ctx, string(make([]byte, 2000))), &api)
	require.ErrorIs(t, p.Publish(ctx, string(make([]byte, 2<<20))), nats.ErrMaxPayload)
}
