package natsipc_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
)

// However streams end, nothing is left of them: no goroutine, no subscription, no flow.
func TestStreamsLeaveNothing(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc, there := natstest.Connect(t, srv), natstest.Connect(t, srv)
	s, b := newServer()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	cases := streamCases()
	all := func() {
		for _, run := range cases {
			_, _ = run(t.Context(), c) // what it returns is another test's
		}
		for range 20 { // in the middle, with both windows full
			st, err := outflow.Open(t.Context(), c, make([]byte, 10_000))
			require.NoError(t, err)
			st.Close()
		}
		for len(b.ended)+len(b.began) > 0 {
			select {
			case <-b.ended:
			case <-b.began:
			}
		}
	}
	all() // and what is kept is there
	quiet := func() bool { return c.Streams() == 0 }
	require.Eventually(t, quiet, 30*time.Second, time.Millisecond)
	goroutines, subscriptions := runtime.NumGoroutine(), nc.NumSubscriptions()+there.NumSubscriptions()
	for settled := 0; settled < 20; settled++ { // some are about to end
		if time.Sleep(10 * time.Millisecond); runtime.NumGoroutine() < goroutines {
			goroutines, settled = runtime.NumGoroutine(), 0
		}
	}
	for range 3 {
		all()
	}
	require.Eventually(t, func() bool {
		return quiet() && runtime.NumGoroutine() <= goroutines+1 // that of this function
	}, 30*time.Second, 10*time.Millisecond, "%d goroutines, of %d", runtime.NumGoroutine(), goroutines)
	require.Equal(t, subscriptions, nc.NumSubscriptions()+there.NumSubscriptions())
}
