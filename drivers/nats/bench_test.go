package natsipc_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/worker"
)

// BenchmarkCall measures a call over NATS, request and reply of nats.go with the same bytes, and a call within this process, in
// turns. The figures are medians of single calls.
func BenchmarkCall(b *testing.B) {
	for _, size := range []int{64, 1 << 10, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			srv := natstest.Start(b, nil)
			nc, there := natstest.Connect(b, srv), natstest.Connect(b, srv)
			s, _ := newServer()
			serve(b, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
			_, err := there.QueueSubscribe("plain", "q", func(m *nats.Msg) { _ = m.Respond(m.Data) })
			require.NoError(b, err)
			require.NoError(b, there.Flush())
			c := natsipc.Caller(nc, "test")
			defer c.Close()
			local, err := worker.Local(s)
			require.NoError(b, err)
			defer local.Close()
			request := make([]byte, size)
			var response []byte
			turns := []struct {
				name string
				call func() error
				took []time.Duration
			}{
				{"plain", func() error { _, err := nc.Request("plain", request, time.Minute); return err }, nil},
				{"call", func() error { return echo.CallInto(b.Context(), c, request, &response) }, nil},
				{"local", func() error { return echo.CallInto(b.Context(), local, request, &response) }, nil},
			}
			for b.Loop() {
				for i := range turns {
					for range 100 { // of each in its turn, so that all see the same states of the machine
						began := time.Now()
						if err := turns[i].call(); err != nil {
							b.Fatal(err)
						}
						turns[i].took = append(turns[i].took, time.Since(began))
					}
				}
			}
			var medians [3]float64
			for i := range turns {
				slices.Sort(turns[i].took)
				medians[i] = float64(turns[i].took[len(turns[i].took)/2])
				b.ReportMetric(medians[i], turns[i].name+"-ns")
			}
			b.ReportMetric(medians[1]/medians[0], "call/plain")
		})
	}
}
