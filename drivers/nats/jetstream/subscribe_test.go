//go:build unix

package jetipc_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	jetipc "github.com/tandemipc/tandem/drivers/nats/jetstream"
	"github.com/tandemipc/tandem/ipc"
)

// A subscription does not leave its consumer at the server.
func TestTopicCloseDeletesConsumer(t *testing.T) {
	js := start(t)
	stream := newStream(t, js, jetstream.StreamConfig{Name: "T"})
	p := publisher(t, js, plain)
	require.NoError(t, p.Publish(t.Context(), 0))
	consumers := func() int {
		info, err := stream.Info(t.Context())
		require.NoError(t, err)
		return info.State.Consumers
	}
	s := open(t, js, plain, jetipc.FromOldest())
	_, _ = receive(t, s)
	require.Equal(t, 1, consumers())
	s.Close()
	eventually(t, "the consumer is gone", func() bool { return consumers() == 0 })
}

// Receive with very short times gets records as well.
func TestTopicReceiveWithoutPatience(t *testing.T) {
	js := start(t)
	newStream(t, js, jetstream.StreamConfig{Name: "T"})
	p := publisher(t, js, plain)
	s := open(t, js, plain)
	require.NoError(t, p.Publish(t.Context(), 7))
	eventually(t, "the record comes", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Microsecond)
		defer cancel()
		v, err := s.Receive(ctx)
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		return err == nil && v == 7
	})
}

// What is removed while a subscription takes the latest records of all keys costs it none of those that are left: the server counts what is
// removed as if it were to come.
func TestTopicFromLatestWhileOthersAreRemoved(t *testing.T) {
	const keys = 400 // more than are fetched at a time
	js := start(t)
	stream := newStream(t, js, jetstream.StreamConfig{Name: "T", MaxMsgsPerSubject: 2})
	p := publisher(t, js, quotes)
	for n := range 2 * keys {
		require.NoError(t, p.Publish(t.Context(), quote{fmt.Sprint("key", n/2), n}))
	}
	s := open(t, js, quotes, jetipc.FromLatest())
	for k := range keys {
		if k == 3 {
			for n := 300; n < 320; n++ { // the older ones of their keys
				require.NoError(t, stream.DeleteMsg(t.Context(), uint64(2*n+1)))
			}
		}
		q, lost := receive(t, s)
		require.Zero(t, lost)
		require.Equal(t, 2*k+1, q.N)
	}
	require.NoError(t, p.Publish(t.Context(), quote{"key0", 2 * keys}))
	q, lost := receive(t, s)
	require.Zero(t, lost)
	require.Equal(t, 2*keys, q.N)
}

// A record that is lost between the servers comes again, though none follows that would tell of it.
func TestTopicLastRecordIsLost(t *testing.T) {
	js := start(t)
	stream := newStream(t, js, jetstream.StreamConfig{Name: "T"})
	p := publisher(t, js, plain)
	s := open(t, js, plain)
	require.NoError(t, p.Publish(t.Context(), 1))
	v, _ := receive(t, s)
	require.Equal(t, 1, v)
	var consumer jetstream.Consumer
	for info := range stream.ListConsumers(t.Context()).Info() {
		c, err := stream.Consumer(t.Context(), info.Name)
		require.NoError(t, err)
		consumer = c
	}
	require.NotNil(t, consumer)
	eventually(t, "the subscription asks for nothing", func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumWaiting == 0
	})
	stolen, err := consumer.Fetch(1)
	require.NoError(t, err)
	require.NoError(t, p.Publish(t.Context(), 2))
	require.NotNil(t, <-stolen.Messages())
	v, lost := receive(t, s)
	require.Zero(t, lost)
	require.Equal(t, 2, v)
}

// A topic that has no records any more has no latest ones.
func TestTopicFromLatestOfPurged(t *testing.T) {
	js := start(t)
	stream := newStream(t, js, jetstream.StreamConfig{Name: "T"})
	p := publisher(t, js, quotes)
	require.NoError(t, p.Publish(t.Context(), quote{"k", 1}))
	require.NoError(t, stream.Purge(t.Context()))
	s := open(t, js, quotes, jetipc.FromLatest())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := s.Receive(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, p.Publish(t.Context(), quote{"k", 2}))
	q, lost := receive(t, s)
	require.Zero(t, lost)
	require.Equal(t, 2, q.N)
	require.Equal(t, ipc.SubscriptionStats{Received: 1}, s.Stats())
}
