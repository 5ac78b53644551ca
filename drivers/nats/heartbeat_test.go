package natsipc

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is said of a call that is over ends nothing: the goroutine that has served it uses the context for the next one.
func TestACallThatIsOverIsNotGivenUp(t *testing.T) {
	h := &host{calls: make(map[uint64]*serving)}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	later := time.Now().Add(time.Hour) // so that no heartbeat is due
	s := h.begin("reply", later, MaxHeartbeat, cancel)
	defer h.timer.Stop()
	require.True(t, s.end())
	require.False(t, s.end())
	s.giveUp(errCanceled)
	for range 2 * maxMissed {
		s.mu.Lock()
		s.unheard = true
		s.mu.Unlock()
		require.False(t, s.count())
	}
	require.NoError(t, ctx.Err())
	require.Empty(t, h.calls)
	other := h.begin("reply", later, MaxHeartbeat, cancel)
	other.giveUp(errCanceled)
	require.Equal(t, errCanceled, context.Cause(ctx))
}
