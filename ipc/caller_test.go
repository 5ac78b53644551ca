package ipc_test

import (
	"cmp"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// inProcess is a caller for the methods of one function. docs/testing.md names it.
type inProcess[Req, Res any] func(ctx context.Context, req Req) (Res, error)

func (inProcess[Req, Res]) Codec() ipc.Codec { return ipc.CBOR }

func (f inProcess[Req, Res]) Invoke(ctx context.Context, call *ipc.Invocation, request, memory []byte) ([]byte, error) {
	if call.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, call.Timeout, &ipc.TimeoutError{What: call.Method.Name, After: call.Timeout})
		defer cancel()
	}
	req, err := ipc.Unmarshal[Req](ipc.CBOR, request)
	if err != nil {
		return nil, err
	}
	res, err := f(ctx, req)
	if err != nil {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	return ipc.Marshal(ipc.CBOR, memory, res)
}

// Users test what calls methods without a process, and so by the clock of a bubble.
func TestCallerInProcess(t *testing.T) {
	type size struct{ Width, Height int }
	double := ipc.NewMethod[size, size]("caller_test.double")
	synctest.Test(t, func(t *testing.T) {
		caller := inProcess[size, size](func(ctx context.Context, s size) (size, error) {
			if s.Width < 0 {
				return size{}, errors.New("negative")
			}
			select {
			case <-time.After(time.Duration(s.Width) * time.Minute):
				return size{2 * s.Width, 2 * s.Height}, nil
			case <-ctx.Done():
				return size{}, ctx.Err()
			}
		})
		began := time.Now()
		got, err := double.Call(t.Context(), caller, size{30, 20})
		require.NoError(t, err)
		require.Equal(t, size{60, 40}, got)
		require.Equal(t, 30*time.Minute, time.Since(began))

		var timeout *ipc.TimeoutError
		_, err = double.Call(t.Context(), caller, size{90, 20}, ipc.WithTimeout(time.Hour))
		require.ErrorAs(t, err, &timeout)
		require.Equal(t, 90*time.Minute, time.Since(began))

		_, err = double.Call(t.Context(), caller, size{-1, 0})
		require.ErrorContains(t, err, "negative")
	})
}
