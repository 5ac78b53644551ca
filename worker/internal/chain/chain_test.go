package chain

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

// Whatever functions there are, each is called once for each time that the one outside of it calls
// next, outermost first, and the call ends as the outermost says, unless that makes a success of an
// error. The oracle is a loop.
func TestChain(t *testing.T) {
	type step struct {
		calls int  // of next
		fails bool // returns an error of its own
		hides bool // returns nil whatever next returns
	}
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{rapid.IntRange(0, 2).Draw(t, "calls"), rapid.Bool().Draw(t, "fails"), rapid.Bool().Draw(t, "hides")}
		}), 0, 5).Draw(t, "steps")
		innerFails := rapid.Bool().Draw(t, "inner fails")
		serves := rapid.Bool().Draw(t, "serves")
		own := errors.New("a function")
		inner := errors.New("the call")

		var got []int
		var list []ipc.Interceptor
		for i, s := range steps {
			f := func(ctx context.Context, _ *ipc.Call, next func(context.Context) error) (err error) {
				got = append(got, i)
				for range s.calls {
					err = next(ctx)
				}
				switch {
				case s.fails:
					return own
				case s.hides:
					return nil
				}
				return err
			}
			list = append(list, ipc.Interceptor{Call: f, Handle: f})
		}
		runs := 0
		last := func() ([]byte, error) {
			runs++
			if innerFails {
				return nil, inner
			}
			return []byte("response"), nil
		}

		// The oracle.
		var want []int
		wantRuns, known := 0, false
		var lastErr error
		var walk func(i int) error
		walk = func(i int) error {
			if i == len(steps) {
				if serves && known {
					lastErr = errors.New("twice")
					return lastErr
				}
				wantRuns++
				known, lastErr = true, nil
				if innerFails {
					lastErr = inner
				}
				return lastErr
			}
			want = append(want, i)
			var err error
			for range steps[i].calls {
				err = walk(i + 1)
			}
			switch {
			case steps[i].fails:
				return own
			case steps[i].hides:
				return nil
			}
			return err
		}
		wantErr := walk(0)
		if wantErr == nil {
			wantErr = lastErr
		}

		var response []byte
		var err error
		chain := New(list)
		switch {
		case serves && chain == nil:
			return // the engine asks before
		case serves:
			response, err = chain.Handle.Serve(t.Context(), ipc.Call{}, serverFunc(last))
		default:
			if chain == nil {
				chain = new(Chain)
			}
			response, err = chain.Call.Invoke(t.Context(), &ipc.Invocation{}, 0, ipc.Peer{}, nil, nil, func(context.Context, *ipc.Invocation, []byte, []byte) ([]byte, error) { return last() })
		}
		require.True(t, slices.Equal(want, got), "%v, want %v", got, want)
		require.Equal(t, wantRuns, runs)
		switch {
		case wantErr == nil && !known:
			require.ErrorContains(t, err, "has not called next")
		case wantErr != nil && wantErr.Error() == "twice":
			require.ErrorContains(t, err, "called next twice")
		case wantErr != nil:
			require.ErrorIs(t, err, wantErr)
		default:
			require.NoError(t, err)
			require.Equal(t, "response", string(response))
		}
		if err != nil {
			require.Nil(t, response)
		}
	})
}

type serverFunc func() ([]byte, error)

func (f serverFunc) Serve(context.Context, *ipc.Call) ([]byte, error) { return f() }

// A chain of functions that do nothing is none.
func TestEmptyChain(t *testing.T) {
	require.Nil(t, New(nil))
	require.Nil(t, New(make([]ipc.Interceptor, 3)))
	var c *Chain
	require.False(t, c.Calls())
	require.False(t, c.Handles())
	pass := func(ctx context.Context, _ *ipc.Call, next func(context.Context) error) error { return next(ctx) }
	require.True(t, New([]ipc.Interceptor{{}, {Attempt: pass}}).Calls())
	require.False(t, New([]ipc.Interceptor{{}, {Attempt: pass}}).Handles())
	require.False(t, New([]ipc.Interceptor{{Handle: pass}}).Calls())
}

// closing is a stream that knows whether it was closed.
type closing struct {
	ipc.Stream
	closed bool
}

func (c *closing) Close() { c.closed = true }

// A stream that nobody gets, since a function that wraps it panics, is closed.
func TestStreamIsClosedIfWrappingItPanics(t *testing.T) {
	for _, panics := range []bool{false, true} {
		st := new(closing)
		c := New([]ipc.Interceptor{{Stream: func(_ context.Context, _ *ipc.Call, s ipc.Stream) ipc.Stream {
			if panics {
				panic("oops")
			}
			return s
		}}})
		open := func() {
			got, err := c.OpenStream(t.Context(), &ipc.Invocation{}, ipc.Peer{}, &ipc.StreamOpening{}, func(context.Context, *ipc.Invocation, *ipc.StreamOpening) (ipc.Stream, error) {
				return st, nil
			})
			require.NoError(t, err)
			require.Same(t, st, got)
		}
		if panics {
			require.PanicsWithValue(t, "oops", open)
		} else {
			open()
		}
		require.Equal(t, panics, st.closed)
	}
}

// BenchmarkInvoke is what functions that do nothing add to a call.
func BenchmarkInvoke(b *testing.B) {
	pass := func(ctx context.Context, _ *ipc.Call, next func(context.Context) error) error { return next(ctx) }
	inv := &ipc.Invocation{}
	for _, n := range []int{1, 3} {
		c := New(slices.Repeat([]ipc.Interceptor{{Call: pass}}, n))
		b.Run([]string{1: "one", 3: "three"}[n], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.Call.Invoke(b.Context(), inv, 0, ipc.Peer{}, nil, nil, func(context.Context, *ipc.Invocation, []byte, []byte) ([]byte, error) { return nil, nil })
			}
		})
	}
}
