package engine

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// forgetter is a [Resumer] that remembers what is to be forgotten.
type forgetter struct {
	mu   sync.Mutex
	keys []CallKey
}

func (f *forgetter) Next(ctx context.Context, _ *Session, _ time.Duration) (*Session, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (f *forgetter) Forget(_ *Session, keys ...CallKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = append(f.keys, keys...)
}

func (f *forgetter) all() []CallKey {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.keys)
}

// A cancellation that was sent over a link which has ended since is sent again over the next one, unless the worker has answered.
func TestCancellationsThatMayBeLost(t *testing.T) {
	for _, name := range []string{"sent", "answered", "forgotten", "forgotten and answered"} {
		t.Run(name, func(t *testing.T) {
			f, l := new(forgetter), newFakeLink()
			s := New(Config{Link: l, Codec: ipc.CBOR, Timeout: time.Minute, AgreedTimeout: time.Minute, MaxMessage: 1 << 20, Handlers: new(Registry), Log: slog.New(slog.DiscardHandler),
				Number: 7, Resumer: f})
			s.Open()
			defer s.Close(0)
			var key CallKey
			var tx uint64
			if name == "sent" || name == "answered" {
				ctx, cancel := context.WithCancel(t.Context())
				over := make(chan error, 1)
				go func() { _, err := echo.Call(ctx, s, []byte("x")); over <- err }()
				tx = frameOf(l, drivers.KindRequest).Tx
				cancel()
				require.ErrorIs(t, <-over, context.Canceled)
				require.Equal(t, tx, frameOf(l, drivers.KindCancel).Tx)
				key = CallKey{7, tx}
			} else {
				key = CallKey{3, 44}
				s.Forget([]CallKey{key})
				tx = frameOf(l, drivers.KindResume).Tx
				require.Equal(t, tx, frameOf(l, drivers.KindCancel).Tx)
			}
			want := []CallKey{key}
			if name == "answered" || name == "forgotten and answered" {
				late := s.LateResponses()
				l.push(drivers.Frame{Kind: drivers.KindError, Tx: tx, Payload: ipc.AppendError(nil, context.Canceled)})
				for s.LateResponses() == late {
					time.Sleep(time.Millisecond)
				}
				want = nil
			}
			require.Empty(t, f.all())
			s.Fail(ipc.ErrDisconnected)
			<-s.Done()
			require.Equal(t, want, f.all())

			// After the end there is no link for it.
			s.sendCancel(99, drivers.ReasonGivenUp)
			s.Forget([]CallKey{{3, 45}, {3, 46}})
			require.ElementsMatch(t, append(want, CallKey{7, 99}, CallKey{3, 45}, CallKey{3, 46}), f.all())
		})
	}
}
