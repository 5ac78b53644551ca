//go:build unix

package pipeline_test

import (
	"context"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker/pipeline"
)

var (
	soak      = flag.Duration("soak", 3*time.Second, "how long TestSoak runs with each driver")
	soakKills = flag.Float64("soak-kills", 5, "how many workers TestSoak kills in a second")
)

// A sink that remembers gets each record once, from two stages whose workers are killed all the time: with
// -soak 60s that is 300 kills.
func TestSoak(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		first, second := startPool(t, driver, 2), startPool(t, driver, 2)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var next uint64
		source := func(yield func([]byte, error) bool) {
			b := make([]byte, 100)
			for ; ctx.Err() == nil; next++ {
				binary.LittleEndian.PutUint64(b, next)
				if !yield(b, nil) {
					return
				}
			}
		}
		var ids pipeline.IDs
		var taken, doubled, wrong uint64
		sink := sinkFunc[[]byte](func(_ context.Context, items []pipeline.Item[[]byte]) error {
			for _, item := range items {
				if !ids.Add(item.ID) {
					doubled++
				}
				if len(item.Record) != 100 || binary.LittleEndian.Uint64(item.Record) != item.ID.Pos {
					wrong++
				}
			}
			taken += uint64(len(items))
			return nil
		})
		none := pipeline.Deaths(1000)
		out := pipeline.Through(pipeline.Through(pipeline.From(source), echo, first, none), echo, second, none)
		var killing sync.WaitGroup
		kills := 0
		killing.Go(func() {
			defer cancel()
			random := rand.New(rand.NewPCG(1, 2))
			every := time.NewTicker(time.Duration(float64(time.Second) / *soakKills))
			defer every.Stop()
			for began := time.Now(); time.Since(began) < *soak; <-every.C {
				pids := []*workers{first, second}[random.IntN(2)].pids()
				if len(pids) > 0 && syscall.Kill(pids[random.IntN(len(pids))], syscall.SIGKILL) == nil {
					kills++
				}
			}
		})
		err := out.Into(context.Background(), sink)
		killing.Wait()
		require.NoError(t, err)
		t.Logf("%d kills, %d records: %d lost, %d doubled", kills, next, next-taken, doubled)
		require.Positive(t, kills)
		require.Equal(t, next, taken)
		require.Zero(t, doubled)
		require.Zero(t, wrong)
		require.Zero(t, ids.Len())
		require.Equal(t, next, out.Stats().Position)
	})
}
