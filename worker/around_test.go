//go:build unix

package worker_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// plainCaller is a caller that is nothing else.
type plainCaller struct{ ipc.Caller }

// The functions of interceptors are around each call of any caller, outermost first.
func TestIntercept(t *testing.T) {
	c := plainCaller{localWith(t, worker.Local)}
	require.Equal(t, ipc.Caller(c), worker.Intercept(c))
	require.Equal(t, ipc.Caller(c), worker.Intercept(c, ipc.Interceptor{}))
	var seen []string
	note := func(name string) ipc.InterceptFunc {
		return func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			seen = append(seen, name+" "+call.Method.Name)
			return next(ctx)
		}
	}
	around := worker.Intercept(c, ipc.Interceptor{Call: note("outer"), Attempt: note("attempt")}, ipc.Interceptor{Call: note("inner")})
	n, err := add.Call(t.Context(), around, pair{1, 2})
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Equal(t, []string{"outer test.add", "inner test.add", "attempt test.add"}, seen)

	_, err = ipc.NewBidiStream[int, int]("test.stream").Open(t.Context(), around)
	require.ErrorIs(t, err, ipc.ErrUnsupported)
	require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(err))
}
