//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// What Publish costs the publisher, with subscribers in another process: by shared memory, by streams of the same driver, and by a socket.
// "busy" publishes without a pause; "parked" after a pause in which all have got everything and sleep, and then p50 is what counts.
func BenchmarkTopicPublish(b *testing.B) {
	for _, s := range spawners {
		if s.name != "shm" && s.name != "socket" {
			continue
		}
		for _, form := range []string{"memory", "stream"} {
			if form == "memory" && s.name == "socket" {
				continue
			}
			for _, subscribers := range []int{0, 1, 8, 64} {
				for _, pause := range []time.Duration{0, time.Millisecond} {
					how := "busy"
					if pause > 0 {
						how = "parked"
					}
					b.Run(fmt.Sprintf("%s/%s/%s/%d", s.name, form, how, subscribers), func(b *testing.B) {
						benchmarkPublish(b, s, form == "stream", subscribers, pause)
					})
				}
			}
		}
	}
}

func benchmarkPublish(b *testing.B, s spawner, streams bool, subscribers int, pause time.Duration) {
	w := s.start(b)
	opts := []ipc.PublisherOption{ipc.Keep(1024)}
	if streams {
		opts = append(opts, ipc.WithoutSharedMemory())
	}
	p := hostPublisher(b, w, opts...)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range subscribers {
		go func() { _, _ = topicFollow.Call(ctx, w, following{}) }()
	}
	eventually(b, "all subscribe", func() bool { return p.Stats().Subscribers == subscribers })
	k := makeTick(1, 2, 3)
	if pause == 0 {
		b.ReportAllocs()
		for n := uint64(1); b.Loop(); n++ {
			if err := p.Publish(ctx, k); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	var took []time.Duration
	for b.Loop() {
		time.Sleep(pause)
		began := time.Now()
		err := p.Publish(ctx, k)
		took = append(took, time.Since(began))
		require.NoError(b, err)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
	b.ReportMetric(0, "ns/op")
}
