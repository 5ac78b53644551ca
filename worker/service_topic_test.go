//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker"
)

// A service publishes to clients that did not start it: to subscribers here, each with a client of its
// own, and in processes of which one is killed and one is stopped. Nobody is disturbed, and what is left
// sees each record.
func TestTopicOfService(t *testing.T) {
	eachService(t, func(t *testing.T, d serviceDriver, s *serviceProcess) {
		t.Parallel()
		const records = 10_000
		control := dial(t, d, s.name)
		openTopic(t, control, topicOptions{Keep: 256, KeepBytes: 16 << 10, CutOff: 10 * time.Second})
		killed, stopped := startSubscriber(t, d, s.name), startSubscriber(t, d, s.name)
		var wg sync.WaitGroup
		for i := range 8 {
			f := following{Reliable: i%2 == 0}
			sub, err := ticks.Open(t.Context(), dial(t, d, s.name), f.options()...)
			require.NoError(t, err)
			wg.Go(func() {
				got, err := follow(context.Background(), sub, nil)
				assert.NoError(t, err)
				assert.Empty(t, got.Wrong)
				assert.Equal(t, uint64(records+1), got.Next, "%+v", f)
				if f.Reliable && got.End == "" {
					assert.Zero(t, got.Lost)
				}
			})
		}
		st, err := topicPublish.Call(t.Context(), control, publishing{N: records / 4})
		require.NoError(t, err)
		require.Equal(t, 10, st.Subscribers)
		killed.kill()
		_, err = topicPublish.Call(t.Context(), control, publishing{N: records / 4})
		require.NoError(t, err)
		stop(t, stopped.pid())
		st, err = topicPublish.Call(t.Context(), control, publishing{N: records / 2})
		require.NoError(t, err)
		require.EqualValues(t, records, st.Published)
		_, err = topicClose.Call(t.Context(), control, 0)
		require.NoError(t, err)
		wg.Wait()
		stopped.kill()
		eventually(t, "nobody subscribes", func() bool {
			st, err := topicClose.Call(t.Context(), control, 0)
			return err == nil && st.Subscribers == 0 && st.SharedMemory == 0
		})
	})
}

const subscriberProgram = "tandem-test-subscriber"

func init() { programs[subscriberProgram] = runSubscriber }

// runSubscriber subscribes to a service's topic, reliably.
func runSubscriber() error {
	c, err := worker.Dial(context.Background(), os.Args[2], serviceDriverOfArgs())
	if err != nil {
		return err
	}
	sub, err := ticks.Open(context.Background(), c, following{Reliable: true}.options()...)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = follow(context.Background(), sub, nil)
	return err
}

func startSubscriber(t testing.TB, d serviceDriver, name string) *serviceProcess {
	t.Helper()
	return startProgram(t, subscriberProgram, d, name)
}
