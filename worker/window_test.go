//go:build unix

package worker_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// A window that the host has chosen holds up its sender after just so many bytes, in both
// directions and after every start; messages that are larger than it still pass.
func TestWindowOption(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for _, window := range []int{drivers.MinWindow, 1 << 20} {
			w := s.start(t, worker.WithWindow(window), worker.WithGrace(100*time.Millisecond))
			large := make([]byte, 3<<20)
			b, err := rawEcho.Call(t.Context(), w, large)
			require.NoError(t, err)
			require.Len(t, b, len(large))

			gate := make(chan struct{})
			count := counter(0)
			worker.Handle(w, back, func(ctx context.Context, b []byte) ([]byte, error) {
				<-gate
				return count(ctx, b)
			})
			const many = 10_000
			flooding, err := flood.Go(t.Context(), w, many)
			require.NoError(t, err)

			sent := 0
			for failed := 0; failed < 10; { // one may fail since a process did not run
				err := block.Notify(t.Context(), w, "x", ipc.WithTimeout(100*time.Millisecond))
				if err == nil {
					sent++
					failed = 0
					continue
				}
				require.ErrorAs(t, err, new(*ipc.TimeoutError))
				failed++
			}
			const cost = 256 + 2 // "x" takes two bytes in CBOR
			require.Equal(t, (window+cost-1)/cost, sent)

			close(gate)
			n, err := flooding.Wait(t.Context())
			require.NoError(t, err)
			require.Equal(t, many, n)
			eventually(t, "the host got all", func() bool {
				b, err := count(t.Context(), numbered(0, 0))
				require.NoError(t, err)
				return b[8] == many&0xff && b[9] == many>>8
			})
			_ = w.Close() // its handlers outlast the grace
		}
	})
}
