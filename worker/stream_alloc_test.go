//go:build unix

package worker_test

import (
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var (
	quotes  = ipc.NewBidiStream[quote, quote]("test.quotes", ipc.WithCodec(ipc.Fixed)) // sent back
	packets = ipc.NewBidiStream[[]byte, []byte]("test.packets", ipc.WithCodec(ipc.Raw))
)

func serveAllocs(s *worker.Server) {
	worker.HandleBidiStream(s, quotes, sendBack[quote])
	worker.HandleBidiStream(s, packets, sendBack[[]byte])
}

func sendBack[T any](ctx context.Context, in *ipc.Receiver[T], out *ipc.Sender[T]) error {
	for item, err := range in.All(ctx) {
		if err != nil {
			return err
		}
		if err := out.Send(ctx, item); err != nil {
			return err
		}
	}
	return nil
}

// Streams of Fixed and Raw items allocate nothing for an item, neither when it is sent nor when
// it is received, on either side.
func TestStreamsAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates by itself")
	}
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		t.Run("fixed", func(t *testing.T) { allocatesNothing(t, w, quotes, 50, func(quote) quote { return quote{1, 2} }) })
		for size, burst := range map[int]int{64: 50, 10_000: 1} {
			packet := make([]byte, size)
			t.Run("raw", func(t *testing.T) { allocatesNothing(t, w, packets, burst, func([]byte) []byte { return packet }) })
		}
	})
}

func allocatesNothing[T any](t *testing.T, w client, m *ipc.BidiStream[T, T], burst int, next func(T) T) {
	const items = 4000
	ctx := context.Background()
	st, err := m.Open(ctx, w)
	require.NoError(t, err)
	defer st.Close()
	made := func() (host, worker uint64) {
		n, err := mallocs.Call(ctx, w, [1]uint64{})
		require.NoError(t, err)
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		return mem.Mallocs, n[0]
	}
	// Now and then a collection empties pools.
	eventually(t, "no more than a few", func() bool {
		host, worker := made()
		var item T
		for range items / burst {
			for range burst {
				if err = st.Send(ctx, next(item)); err != nil {
					t.Fatal(err)
				}
			}
			for range burst {
				if item, err = st.Receive(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
		hostAfter, workerAfter := made()
		if hostAfter-host > items/50 || workerAfter-worker > items/50 {
			t.Logf("for %d items the host has allocated %d times, and the worker %d times", items, hostAfter-host, workerAfter-worker)
			return false
		}
		return true
	})
}
