package natsipc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/worker"
)

// Calls of methods that a service does not have do not take the statistics from those that it has.
func TestStatisticsDespiteUnknownMethods(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc := natstest.Connect(t, srv)
	s, _ := newServer()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	for i := range 1100 { // more than are remembered
		_, err := nc.Request(fmt.Sprintf("tandem.test.call.unknown%d", i), nil, 30*time.Second)
		require.NoError(t, err)
	}
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	_, err := echo.Call(t.Context(), c, []byte("x"))
	require.NoError(t, err)
	require.Equal(t, 1, endpointStats(t, nc)["tandem.test.call.test.echo"].NumRequests)
}

// A service that shows no methods shows how all calls of it have ended, together.
func TestStatisticsWithoutMethods(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc := natstest.Connect(t, srv)
	s, _ := newServer()
	local, err := worker.Local(s)
	require.NoError(t, err)
	defer local.Close()
	serve(t, nc, func(ctx context.Context) error { return natsipc.Forward(ctx, nc, local, service) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	before := endpointStats(t, nc)["tandem.test.call.>"]
	_, err = double.Call(t.Context(), c, 1)
	require.NoError(t, err)
	_, err = fail.Call(t.Context(), c, "code")
	require.Error(t, err)
	after := endpointStats(t, nc)["tandem.test.call.>"]
	require.Equal(t, before.NumRequests+2, after.NumRequests)
	require.Equal(t, before.NumErrors+1, after.NumErrors)
	require.Greater(t, after.ProcessingTime, before.ProcessingTime)
	require.NotEmpty(t, after.LastError)
}

// endpointStats asks a service for its statistics, by subject.
func endpointStats(t *testing.T, nc *nats.Conn) map[string]micro.EndpointStats {
	t.Helper()
	m, err := nc.Request("$SRV.STATS.test", nil, 30*time.Second)
	require.NoError(t, err)
	var stats micro.Stats
	require.NoError(t, json.Unmarshal(m.Data, &stats))
	all := make(map[string]micro.EndpointStats)
	for _, e := range stats.Endpoints {
		all[e.Subject] = *e
	}
	return all
}
