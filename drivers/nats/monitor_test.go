package natsipc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
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
	m, err := nc.Request("$SRV.STATS.test", nil, 30*time.Second)
	require.NoError(t, err)
	var stats micro.Stats
	require.NoError(t, json.Unmarshal(m.Data, &stats))
	requests := make(map[string]int)
	for _, e := range stats.Endpoints {
		requests[e.Subject] = e.NumRequests
	}
	require.Equal(t, 1, requests["tandem.test.call.test.echo"])
}
