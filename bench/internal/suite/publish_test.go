package suite

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A publisher does not notice that its receivers have died: the context says so.
func TestMeasurePublishEndsWithItsContext(t *testing.T) {
	for _, parked := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		_, err := MeasurePublish(ctx, Crew{}, 20*time.Second, Publishing{
			Parked: func() bool {
				if n == 3 {
					cancel()
				}
				return n < 3 || parked
			},
			Publish: func() error { n++; return nil },
		})
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 3, n)
	}
}

// Nothing is published before all receivers have got what was before.
func TestMeasurePublishWaitsUntilAllAreParked(t *testing.T) {
	published, looks := 0, 0
	s, err := MeasurePublish(t.Context(), Crew{}, time.Millisecond, Publishing{
		Size: 64,
		Parked: func() bool {
			looks++
			return looks%4 == 0
		},
		Publish: func() error {
			published++
			require.Equal(t, 4*published, looks)
			return nil
		},
	})
	require.NoError(t, err)
	require.Positive(t, s.Ops)
	require.EqualValues(t, 64*s.Ops, s.Bytes)
	require.Equal(t, s.Ops, s.Latencies.TotalCount())
	require.EqualValues(t, published, s.Ops+1, "one to warm up")
}
