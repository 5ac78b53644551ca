//go:build unix

package worker_test

import (
	"context"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// The functions around a stream that was read to its end return, though nobody closes it and the context of the last
// Receive ends at any time.
func TestInterceptorsOfReadStreamsReturn(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		var begun, returned, told atomic.Int64
		around := func(ctx context.Context, _ *ipc.Call, next func(context.Context) error) error {
			begun.Add(1)
			defer returned.Add(1)
			return next(ctx)
		}
		w, err := s.spawn(t.Context(), worker.Self("life"), worker.WithInterceptors(ipc.Interceptor{Call: around, Attempt: around}))
		require.NoError(t, err)
		defer w.Close()
		for range 400 {
			st, err := lifeBoth.Open(context.Background(), w)
			require.NoError(t, err)
			require.NoError(t, st.CloseSend(t.Context()))
			for err == nil {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Duration(rand.Int64N(int64(100*time.Microsecond))), cancel)
				_, err = st.Receive(ctx)
				if err != io.EOF && ctx.Err() != nil {
					err = nil // it is to be called again
				} else if ctx.Err() != nil {
					told.Add(1)
				}
				cancel()
			}
			require.Equal(t, io.EOF, err)
		}
		eventually(t, "all functions have returned", func() bool { return returned.Load() == begun.Load() })
		t.Logf("of 400 streams %d have ended as a context did", told.Load())
	})
}
