//go:build unix

package jetipc_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	jetipc "github.com/tandemipc/tandem/drivers/nats/jetstream"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// One stage is a pool of this machine's workers, the other one is a service, which two pools with connections of their own
// serve. One of these ends in the middle, in order or by being cut off. Which stage is where is the caller that Through gets.
func TestStagesHereAndThere(t *testing.T) {
	const records = 3000
	for name, test := range map[string]struct{ swap, cut bool }{
		"pool, then service":          {},
		"service, then pool":          {swap: true},
		"pool, then service, cut off": {cut: true},
		"service, cut off, then pool": {swap: true, cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			js := start(t)
			source, _ := inStream(t, js, records, jetstream.ConsumerConfig{}, jetipc.Drain())
			newStream(t, js, jetstream.StreamConfig{Name: "OUT"})
			here, err := newPool(1)
			require.NoError(t, err)
			defer here.Close()

			var services sync.WaitGroup
			defer services.Wait()
			serve := func() (end, cutOff func()) {
				there, err := newPool(1)
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(context.Background())
				nc, err := nats.Connect(js.Conn().ConnectedUrl(), nats.Timeout(time.Minute))
				require.NoError(t, err)
				services.Go(func() {
					defer nc.Close()
					defer there.Close()
					if err := natsipc.Forward(ctx, nc, there, natsipc.Service{Name: "test", Version: "1.0.0", Grace: time.Minute}); ctx.Err() == nil && !nc.IsClosed() {
						t.Error(err)
					}
				})
				return cancel, nc.Close
			}
			endOne, cutOff := serve()
			end, _ := serve()
			defer end()
			defer endOne()
			far := natsipc.Caller(js.Conn(), "test", natsipc.WithHeartbeat(100*time.Millisecond))
			defer far.Close()
			eventually(t, "somebody serves", func() bool {
				n, err := double.Call(t.Context(), far, 2)
				return err == nil && n == 4
			})

			var first, second ipc.Caller = here, far
			if test.swap {
				first, second = far, here
			}
			doubled := pipeline.Through(pipeline.FromNumbered(source), double, first)
			out := pipeline.Flatten(pipeline.Through(doubled, parts, second))
			sink := newSink(t, js, "OUT")
			over := make(chan error, 1)
			go func() { over <- out.Into(t.Context(), sink) }()
			eventually(t, "it runs", func() bool { return messages(t, js, "OUT") > records/10 })
			if test.cut {
				cutOff()
			} else {
				endOne()
			}
			require.NoError(t, within(t, func() error { return <-over }))
			got := contents(t, js, "OUT")
			want := 0
			for n := range uint64(records) {
				for part := range 2 * n % 3 {
					require.Equal(t, 1, got[2*n<<8|part])
					want++
				}
			}
			require.Len(t, got, want)
		})
	}
}
