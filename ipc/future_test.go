package ipc_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// A Caller that can do no more than Invoke has futures all the same.
func TestFutureOfAnyCaller(t *testing.T) {
	release := make(chan struct{})
	c := &contextCaller{fakeCaller{codec: ipc.CBOR}, func(ctx context.Context, call encoded) ([]byte, error) {
		var n int
		if err := ipc.CBOR.Decode(call.Request, &n); err != nil {
			return nil, err
		}
		select {
		case <-release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if n < 0 {
			return nil, errors.New("negative")
		}
		return ipc.CBOR.Append(call.Response, 2*n)
	}}
	double := ipc.NewMethod[int, int]("double")
	var all []*ipc.Future[int]
	for i := range 100 {
		f, err := double.Go(t.Context(), c, i)
		require.NoError(t, err)
		require.False(t, f.Done())
		all = append(all, f)
	}
	all[50].Abandon()
	_, err := all[50].Wait(context.Background())
	require.ErrorIs(t, err, ipc.ErrAbandoned)
	ctx, cancel := context.WithCancel(t.Context())
	ended, err := double.Go(ctx, c, 1)
	require.NoError(t, err)
	cancel()
	_, err = ended.Wait(context.Background())
	require.ErrorIs(t, err, context.Canceled)
	close(release)
	var wg sync.WaitGroup
	for i, f := range all {
		if i == 50 {
			continue
		}
		for range 2 { // anybody may wait, and all get the same
			wg.Go(func() {
				n, err := f.Wait(context.Background())
				assert.NoError(t, err)
				assert.Equal(t, 2*i, n)
				f.Abandon() // too late
			})
		}
	}
	wg.Wait()
	require.True(t, all[3].Done())
	n, err := all[3].Wait(context.Background())
	require.NoError(t, err)
	require.Equal(t, 6, n)
	f, err := double.Go(t.Context(), c, -1)
	require.NoError(t, err)
	_, err = f.Wait(context.Background())
	require.EqualError(t, err, "negative")

	require.NoError(t, ipc.Batch(t.Context(), c, func(inner ipc.Caller) error {
		require.Same(t, c, inner)
		return nil
	}))
}

type contextCaller struct {
	fakeCaller
	invoke func(context.Context, encoded) ([]byte, error)
}

func (c *contextCaller) Invoke(ctx context.Context, call *ipc.Invocation, request, memory []byte) ([]byte, error) {
	return c.invoke(ctx, encoded{*call, request, memory})
}

// Results that cannot be decoded are errors, whatever the codec.
func TestFutureOfBadResult(t *testing.T) {
	for _, codec := range []ipc.Codec{ipc.Raw, ipc.CBOR, ipc.JSON} {
		c := &fakeCaller{codec, func(encoded) ([]byte, error) { return []byte{0xff, 0xff}, nil }}
		m := ipc.NewMethod[[]byte, int]("m")
		f, err := m.Go(t.Context(), c, []byte("x"))
		require.NoError(t, err)
		for range 2 {
			_, err = f.Wait(context.Background())
			require.Equal(t, ipc.CodeInternal, ipc.CodeOf(err), "codec %s", codec.Name())
			require.ErrorContains(t, err, `"m"`)
		}
	}
	_, err := ipc.NewMethod[any, int]("m").Go(t.Context(), &fakeCaller{codec: ipc.CBOR}, func() {})
	require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err))
}

func TestCallIntoKeepsMemory(t *testing.T) {
	c := &fakeCaller{ipc.Raw, func(call encoded) ([]byte, error) { return append(call.Response, call.Request...), nil }}
	m := ipc.NewMethod[[]byte, []byte]("m")
	out := make([]byte, 3, 100)
	first := &out[0]
	require.NoError(t, m.CallInto(t.Context(), c, []byte("hello"), &out))
	require.Equal(t, "hello", string(out))
	require.Same(t, first, &out[0])

	type rec struct {
		A, B int
		M    map[string]int
	}
	c = &fakeCaller{ipc.CBOR, func(call encoded) ([]byte, error) {
		return ipc.CBOR.Append(call.Response, map[string]any{"A": 5, "M": map[string]int{"y": 2}})
	}}
	r := rec{A: 1, B: 2, M: map[string]int{"x": 1}}
	require.NoError(t, ipc.NewMethod[int, rec]("m").CallInto(t.Context(), c, 0, &r))
	require.Equal(t, rec{A: 5, B: 2, M: map[string]int{"x": 1, "y": 2}}, r, "what was there and did not come stays")
	failing := &fakeCaller{ipc.CBOR, func(encoded) ([]byte, error) { return nil, errors.New("no") }}
	require.EqualError(t, ipc.NewMethod[int, rec]("m").CallInto(t.Context(), failing, 0, &r), "no")
}
