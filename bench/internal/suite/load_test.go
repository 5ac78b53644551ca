package suite

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEchoNoticesWhatIsGarbled(t *testing.T) {
	ctx := context.Background()
	for _, size := range []int{0, 1, 7, 8, 64, 100_000} {
		good := NewEcho(func(_ context.Context, b []byte) ([]byte, error) { return slices.Clone(b), nil }, size)
		good.Prepare(64)
		require.NoError(t, good.Do(ctx))
		require.NoError(t, good.Check())

		longer := NewEcho(func(_ context.Context, b []byte) ([]byte, error) { return append(slices.Clone(b), 0), nil }, size)
		longer.Prepare(1)
		require.NoError(t, longer.Do(ctx))
		require.ErrorIs(t, longer.Check(), ErrGarbled)

		if size == 0 {
			continue
		}
		for _, at := range []int{0, size - 1, size / 2} {
			flipped := NewEcho(func(_ context.Context, b []byte) ([]byte, error) {
				b = slices.Clone(b)
				b[at] ^= 1
				return b, nil
			}, size)
			flipped.Prepare(checkAll)
			require.NoError(t, flipped.Do(ctx))
			require.ErrorIs(t, flipped.Check(), ErrGarbled, "byte %d of %d", at, size)
		}
	}
	// The answer to another call is noticed too.
	var last []byte
	late := NewEcho(func(_ context.Context, b []byte) ([]byte, error) {
		answer := last
		last = slices.Clone(b)
		if answer == nil {
			answer = last
		}
		return answer, nil
	}, 4096)
	late.Prepare(1)
	require.NoError(t, late.Do(ctx))
	require.NoError(t, late.Check())
	late.Prepare(2)
	require.NoError(t, late.Do(ctx))
	require.ErrorIs(t, late.Check(), ErrGarbled)
}
