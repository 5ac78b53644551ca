//go:build unix

package natsipc_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// streamWorker is the name of the process that is a worker with the handlers of the tests.
const streamWorker = "natsipc-streams"

func init() {
	worker.Main(streamWorker, func() error {
		s, _ := newServer()
		return s.Serve(context.Background())
	})
}

// workerPools start a pool of one worker, on each driver.
var workerPools = map[string]func(t *testing.T) (ipc.StreamCaller, func() error){
	"shm": func(t *testing.T) (ipc.StreamCaller, func() error) {
		p, err := pool.New(t.Context(), 1, worker.Self(streamWorker), shm.Driver{})
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		require.NoError(t, err)
		return p, p.Close
	},
	"socket": func(t *testing.T) (ipc.StreamCaller, func() error) {
		p, err := pool.New(t.Context(), 1, worker.Self(streamWorker), socket.Driver{})
		require.NoError(t, err)
		return p, p.Close
	},
}

// A stream of a worker of a pool gives over NATS what it gives from this process, and ends when the worker dies.
func TestForwardedStreams(t *testing.T) {
	for driver, begin := range workerPools {
		t.Run(driver, func(t *testing.T) {
			nc := natstest.Connect(t, natstest.Start(t, nil))
			p, end := begin(t)
			defer func() { _ = end() }() // it says that the worker was killed
			stop := serve(t, nc, func(ctx context.Context) error { return natsipc.Forward(ctx, nc, p, service) })
			c := natsipc.Caller(nc, "test")
			defer c.Close()
			for name, run := range streamCases() {
				t.Run(name, func(t *testing.T) {
					want, wantErr := run(t.Context(), p)
					got, err := run(t.Context(), c)
					require.Equal(t, ipc.CodeOf(wantErr), ipc.CodeOf(err), "%v, want %v", err, wantErr)
					require.Equal(t, want, got)
					for _, sentinel := range []error{errSentinel, context.DeadlineExceeded, context.Canceled, ipc.ErrPeerGone, ipc.ErrClosed} {
						require.Equal(t, errors.Is(wantErr, sentinel), errors.Is(err, sentinel), "%v: %v, want %v", sentinel, err, wantErr)
					}
				})
			}
			got, err := collect(numbers.Stream(t.Context(), c, counting{N: 1000, End: "die"}))
			require.ErrorIs(t, err, ipc.ErrPeerGone)
			require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
			require.Len(t, got, 1000, "what was sent before the death arrives")
			require.NoError(t, stop())
		})
	}
}

// Subscribers of a topic are elsewhere, and do not hold up a service that ends.
func TestTopicOverNATS(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, _ := newServer()
	topic := ipc.NewTopic[int]("test.topic")
	pub, err := topic.Publisher(s)
	require.NoError(t, err)
	defer pub.Close()
	long := service
	long.Grace = time.Hour
	stop := serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, long) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	var all []*ipc.Subscription[int]
	for range 3 {
		sub, err := topic.Open(t.Context(), c)
		require.NoError(t, err)
		defer sub.Close()
		all = append(all, sub)
	}
	for n := range 100 {
		require.NoError(t, pub.Publish(t.Context(), n))
	}
	for _, sub := range all {
		for n := range 100 {
			got, err := sub.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, n, got)
		}
	}
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for _, sub := range all {
		_, err := sub.Receive(t.Context())
		require.ErrorIs(t, err, ipc.ErrPeerGone)
	}
	require.NoError(t, within(t, stopped))
}
