//go:build unix

package worker_test

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// A worker that ends in order gives its subscribers what it has published, and then the end, and waits for no subscriber
// longer than that, though its grace has not run out.
func TestTopicOfWorkerThatEnds(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t, worker.WithGrace(time.Hour))
		openTopic(t, w, topicOptions{CutOff: time.Hour})
		var wg sync.WaitGroup
		for i := range 4 {
			sub, err := ticks.Open(t.Context(), w, following{Reliable: i%2 == 0}.options()...)
			require.NoError(t, err)
			wg.Go(func() {
				got, err := follow(context.Background(), sub, nil)
				assert.NoError(t, err)
				assert.Empty(t, got.Wrong)
				assert.Equal(t, uint64(501), got.Next)
			})
		}
		_, err := topicPublish.Call(t.Context(), w, publishing{N: 500})
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGTERM))
		wg.Wait()
	})
}

// Interceptors see subscriptions as streams. Those that do not wrap them leave them in shared memory.
func TestTopicIntercepted(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		around := func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			if call.Method.Name == ticks.Info().Name && !call.Stream {
				return ipc.Errorf(ipc.CodeInternal, "not a stream")
			}
			return next(ctx)
		}
		type wrapped struct{ ipc.Stream }
		for _, wrap := range []bool{false, true} {
			i := ipc.Interceptor{Call: around, Attempt: around}
			if wrap {
				i.Stream = func(_ context.Context, _ *ipc.Call, st ipc.Stream) ipc.Stream { return wrapped{st} }
			}
			w := s.start(t, worker.WithInterceptors(i))
			openTopic(t, w, topicOptions{CutOff: time.Hour})
			sub, err := ticks.Open(t.Context(), w, ipc.Reliable(), ipc.WithMetadata("who", "me"))
			require.NoError(t, err)
			require.Equal(t, w.Capabilities().SharedMemory && !wrap, sub.Stats().SharedMemory)
			_, err = topicPublish.Call(t.Context(), w, publishing{N: 500})
			require.NoError(t, err)
			_, err = topicClose.Call(t.Context(), w, 0)
			require.NoError(t, err)
			got, err := follow(t.Context(), sub, nil)
			require.NoError(t, err)
			require.Empty(t, got.Wrong)
			require.Equal(t, uint64(501), got.Next)
		}
	})
}

// With WithoutSharedMemory a publisher sends streams, by any driver.
func TestTopicWithoutSharedMemory(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		var h worker.Handlers
		p := hostPublisher(t, &h, ipc.WithoutSharedMemory(), ipc.CutOffAfter(time.Hour))
		w := s.start(t, worker.WithHandlers(&h))
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				got, err := topicFollow.Call(t.Context(), w, following{Reliable: true})
				assert.NoError(t, err)
				assert.Empty(t, got.Wrong+got.End)
				assert.Equal(t, uint64(1001), got.Next)
			})
		}
		eventually(t, "all subscribe", func() bool { return p.Stats().Subscribers == 64 })
		require.Zero(t, p.Stats().SharedMemory)
		require.NoError(t, publishTicks(t.Context(), p, 1000))
		require.NoError(t, p.Close())
		wg.Wait()
	})
}

// 300 subscribers, of which 256 share memory at most, and the others get streams.
func TestTopicManySubscribers(t *testing.T) {
	s := spawners[0]
	var h worker.Handlers
	p := hostPublisher(t, &h, ipc.KeepBytes(8<<10), ipc.CutOffAfter(time.Hour))
	w := s.start(t, worker.WithHandlers(&h))
	const subscribers, records = 300, 500
	var wg sync.WaitGroup
	for i := range subscribers {
		wg.Go(func() {
			got, err := topicFollow.Call(t.Context(), w, following{Reliable: i%2 == 0})
			assert.NoError(t, err)
			assert.Empty(t, got.Wrong+got.End)
			assert.Equal(t, uint64(records+1), got.Next)
		})
	}
	eventually(t, "all subscribe", func() bool { return p.Stats().Subscribers == subscribers })
	if w.Capabilities().SharedMemory {
		require.Equal(t, 256, p.Stats().SharedMemory)
	}
	require.NoError(t, publishTicks(t.Context(), p, records))
	require.NoError(t, p.Close())
	wg.Wait()
}
