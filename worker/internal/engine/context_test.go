package engine

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
)

// newRequestContext returns the context of a request that came just now.
func newRequestContext(t *testing.T, timeout time.Duration) *requestContext {
	s, _ := newTestSession(t, new(Registry))
	c := new(requestContext)
	c.init(s, 1, timeout)
	return c
}

type contextKey struct{}

// derived returns a context that is derived from c, and is freed with the test.
func derived(t *testing.T, c context.Context, timeout time.Duration) context.Context {
	var cancel context.CancelFunc
	if timeout > 0 {
		c, cancel = context.WithTimeout(c, timeout)
	} else {
		c, cancel = context.WithCancel(c)
	}
	t.Cleanup(cancel)
	return c
}

// ways are how handlers use their contexts before the end comes, and what they then
// hold.
var ways = map[string]func(*testing.T, context.Context) context.Context{
	"itself":     func(_ *testing.T, c context.Context) context.Context { return c },
	"waited for": func(_ *testing.T, c context.Context) context.Context { _ = c.Done(); return c },
	"derived":    func(t *testing.T, c context.Context) context.Context { return derived(t, c, 0) },
	"timeout":    func(t *testing.T, c context.Context) context.Context { return derived(t, c, time.Hour) },
	"value":      func(_ *testing.T, c context.Context) context.Context { return context.WithValue(c, contextKey{}, 1) },
	"derived of value": func(t *testing.T, c context.Context) context.Context {
		return derived(t, context.WithValue(c, contextKey{}, 1), time.Hour)
	},
}

// However a handler's context ends and whatever was made of it, it says why.
func TestContextSaysWhyItEnds(t *testing.T) {
	for name, derive := range ways {
		for _, end := range []struct {
			name    string
			timeout time.Duration
			end     func(c *requestContext)
			want    error
		}{
			{"given up", time.Hour, func(c *requestContext) { c.cancel(drivers.ReasonGivenUp) }, context.Canceled},
			{"given up, no deadline", 0, func(c *requestContext) { c.cancel(drivers.ReasonGivenUp) }, context.Canceled},
			{"caller's deadline", time.Hour, func(c *requestContext) { c.cancel(drivers.ReasonDeadline) }, context.DeadlineExceeded},
			{"own deadline", time.Millisecond, func(c *requestContext) { <-c.Done() }, context.DeadlineExceeded},
			{"session", time.Hour, func(c *requestContext) { c.session.cancel() }, context.Canceled},
		} {
			t.Run(name+"/"+end.name, func(t *testing.T) {
				c := newRequestContext(t, end.timeout)
				held := derive(t, c)
				if end.timeout != time.Millisecond {
					require.NoError(t, held.Err())
				}
				end.end(c)
				<-held.Done()
				require.Equal(t, end.want, held.Err())
				require.Equal(t, end.want, c.Err())
				late, cancel := context.WithCancel(c)
				defer cancel()
				<-late.Done()
				require.Equal(t, end.want, late.Err())
			})
		}
	}
}

// Contexts that are derived from a handler's need no goroutine each.
func TestDerivedContextsHaveNoGoroutines(t *testing.T) {
	c := newRequestContext(t, time.Hour)
	c.Done()
	before := runtime.NumGoroutine()
	for name, derive := range ways {
		for range 1000 {
			derive(t, c)
		}
		require.LessOrEqual(t, runtime.NumGoroutine(), before+10, name)
	}
	c.cancel(drivers.ReasonGivenUp)
}

// The time of a request counts from its arrival when it waits, and no request outlives
// the end of time.
func TestDeadlineOfContext(t *testing.T) {
	c := newRequestContext(t, 0)
	_, ok := c.Deadline()
	require.False(t, ok)
	c = newRequestContext(t, time.Hour)
	c.fixDeadline()
	first, ok := c.Deadline()
	require.True(t, ok)
	time.Sleep(2 * time.Millisecond)
	second, _ := c.Deadline()
	require.Equal(t, first, second)
	c = newRequestContext(t, noTimeout)
	require.NoError(t, c.Err(), "a timeout near the end of its type does not run out")
	_ = c.Done()
	require.NoError(t, c.Err())
}
