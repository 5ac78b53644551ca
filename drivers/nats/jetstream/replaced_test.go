//go:build unix

package jetipc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	jetipc "github.com/tandemipc/tandem/drivers/nats/jetstream"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// replacements are ways in which another stream takes the place of one with five messages, and how many the other one has then.
var replacements = map[string]struct {
	replace func(t *testing.T, srv *natsProcess, js jetstream.JetStream, make func())
	n       int
}{
	"made anew": {func(t *testing.T, _ *natsProcess, js jetstream.JetStream, make func()) {
		require.NoError(t, js.DeleteStream(t.Context(), "T"))
		make()
	}, 3},
	"made anew while the server was away": {func(t *testing.T, srv *natsProcess, js jetstream.JetStream, make func()) {
		srv.kill()
		require.NoError(t, os.RemoveAll(srv.dir))
		again(t, srv, js)
		make()
	}, 8},
	"lost its end":               {restored, 0},
	"lost its end, and got more": {restored, 6},
}

// restored lets a server lose the last messages of its stream, as after a power failure.
func restored(t *testing.T, srv *natsProcess, js jetstream.JetStream, _ func()) {
	srv.kill()
	require.NoError(t, os.RemoveAll(srv.dir))
	require.NoError(t, os.CopyFS(srv.dir, os.DirFS(srv.dir+".old")))
	again(t, srv, js)
}

// backUp keeps what a server has, for restored. The server is started again.
func backUp(t *testing.T, srv *natsProcess, js jetstream.JetStream) {
	srv.kill()
	require.NoError(t, os.CopyFS(srv.dir+".old", os.DirFS(srv.dir)))
	t.Cleanup(func() { _ = os.RemoveAll(srv.dir + ".old") })
	again(t, srv, js)
}

// again starts a server that was killed, and waits until the connection is there.
func again(t *testing.T, srv *natsProcess, js jetstream.JetStream) {
	srv.again()
	eventually(t, "the server answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := js.AccountInfo(ctx)
		return err == nil
	})
}

// A subscription whose stream was replaced ends with an error, and does not leave out what has numbers that it has had.
func TestTopicOfReplacedStream(t *testing.T) {
	for name, test := range replacements {
		for _, begin := range []string{"now", "oldest", "latest"} {
			t.Run(name+", from "+begin, func(t *testing.T) {
				t.Parallel()
				srv := startNATS(t)
				js := connect(t, srv.url)
				make := func() { newStream(t, js, jetstream.StreamConfig{Name: "T"}) }
				make()
				p := publisher(t, js, quotes)
				for n := range 2 {
					require.NoError(t, p.Publish(t.Context(), quote{fmt.Sprint(n), n}))
				}
				backUp(t, srv, js)
				option := map[string]jetipc.SubscribeOption{"now": jetipc.FromNumber(3), "oldest": jetipc.FromOldest(), "latest": jetipc.FromLatest()}[begin]
				s := open(t, js, quotes, option)
				for n := 2; n < 5; n++ {
					require.NoError(t, p.Publish(t.Context(), quote{fmt.Sprint(n), n}))
				}
				for n, err := s.Receive(t.Context()); ; n, err = s.Receive(t.Context()) {
					require.NoError(t, err)
					if n.N == 4 {
						break
					}
				}
				test.replace(t, srv, js, make)
				for n := range test.n {
					require.NoError(t, p.Publish(t.Context(), quote{fmt.Sprint(n), n}))
				}
				err := within(t, func() error {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					_, err := s.Receive(ctx)
					return err
				})
				require.ErrorIs(t, err, jetipc.ErrReplaced)
			})
		}
	}
}

// A subscription cannot begin with a record that the stream will have some time: a stream that was made anew would be taken for the old one.
func TestTopicFromNumberToCome(t *testing.T) {
	js := start(t)
	newStream(t, js, jetstream.StreamConfig{Name: "T"})
	p := publisher(t, js, plain)
	require.NoError(t, p.Publish(t.Context(), 0))
	s := open(t, js, plain, jetipc.FromNumber(2))
	_, err := jetipc.Open(t.Context(), js, "T", plain, jetipc.FromNumber(3))
	require.Equal(t, ipc.CodeOutOfRange, ipc.CodeOf(err), "%v", err)
	require.NoError(t, p.Publish(t.Context(), 1))
	v, lost := receive(t, s)
	require.Zero(t, lost)
	require.Equal(t, 1, v)
}

// flushing is a sink that is told when to flush.
type flushing struct {
	collector[uint64]
	now chan struct{}
}

func (f *flushing) Flush(ctx context.Context) error {
	select {
	case <-f.now:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A run whose stream was replaced ends with an error. It acknowledges nothing of the other stream, and takes none of that for what it has had.
func TestSourceOfReplacedStream(t *testing.T) {
	for name, test := range replacements {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", late: ", late), func(t *testing.T) {
				t.Parallel()
				srv := startNATS(t)
				js := connect(t, srv.url)
				make2 := func() {
					newStream(t, js, jetstream.StreamConfig{Name: "T"})
					newConsumer(t, js, "T", jetstream.ConsumerConfig{})
				}
				make2()
				put := func(n uint64) {
					b, err := ipc.Marshal(ipc.CBOR, nil, n)
					require.NoError(t, err)
					_, err = js.Publish(t.Context(), "T", b)
					require.NoError(t, err)
				}
				source := func(opts ...jetipc.SourceOption) *jetipc.Source[uint64] {
					consumer, err := js.Consumer(t.Context(), "T", "work")
					require.NoError(t, err)
					s, err := jetipc.NewSource[uint64](t.Context(), js, consumer, opts...)
					require.NoError(t, err)
					return s
				}
				put(0)
				put(1)
				backUp(t, srv, js)
				for n := uint64(2); n < 5; n++ {
					put(n)
				}
				sink := &flushing{now: make(chan struct{})}
				over := make(chan error, 1)
				go func() { over <- pipeline.FromNumbered(source()).Into(t.Context(), sink) }()
				eventually(t, "the records come", func() bool { return sink.len() == 5 })
				test.replace(t, srv, js, make2)
				for n := range uint64(test.n) {
					put(100 + n)
				}
				if late {
					time.Sleep(time.Second) // those that come are found out
				}
				close(sink.now)
				err := within(t, func() error { return <-over })
				if !errors.Is(err, jetstream.ErrConsumerDeleted) {
					require.ErrorIs(t, err, jetipc.ErrReplaced)
				}
				var got collector[uint64]
				require.NoError(t, within(t, func() error { return pipeline.FromNumbered(source(jetipc.Drain())).Into(t.Context(), &got) }))
				all := make(map[uint64]bool)
				for _, item := range append(sink.items, got.items...) {
					all[item.Record] = true
				}
				for n := range contents(t, js, "T") {
					require.Contains(t, all, n, "it is in the stream, and was lost")
				}
			})
		}
	}
}

// A run with Drain does not take a stream that was made anew, and is empty, for one of which all is done.
func TestSourceDrainsReplacedStream(t *testing.T) {
	srv := startNATS(t)
	js := connect(t, srv.url)
	newStream(t, js, jetstream.StreamConfig{Name: "T"})
	consumer := newConsumer(t, js, "T", jetstream.ConsumerConfig{AckWait: time.Minute})
	publish(t, js, "T", 3)
	others, err := consumer.Fetch(3) // another process has all of them
	require.NoError(t, err)
	for range others.Messages() {
	}
	source, err := jetipc.NewSource[uint64](t.Context(), js, consumer, jetipc.Drain())
	require.NoError(t, err)
	var got collector[uint64]
	over := make(chan error, 1)
	go func() { over <- pipeline.FromNumbered(source).Into(t.Context(), &got) }()
	eventually(t, "it waits", func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumWaiting > 0
	})
	srv.kill()
	require.NoError(t, os.RemoveAll(srv.dir))
	again(t, srv, js)
	newStream(t, js, jetstream.StreamConfig{Name: "T"})
	newConsumer(t, js, "T", jetstream.ConsumerConfig{})
	err = within(t, func() error { return <-over })
	gone := errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) // as it was for a while
	require.True(t, gone || errors.Is(err, jetipc.ErrReplaced), "%v", err)
	require.Zero(t, got.len())
}
