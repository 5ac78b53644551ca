//go:build unix

package prometheus_test

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
	"github.com/tandemipc/tandem/worker/prometheus"
)

// The contract of the test worker.
var (
	echo   = ipc.NewMethod[string, string]("prometheus_test.echo", ipc.WithIdempotent())
	hold   = ipc.NewMethod[string, string]("prometheus_test.hold") // until its context ends
	note   = ipc.NewMethod[string, struct{}]("prometheus_test.note")
	count  = ipc.NewServerStream[int, int]("prometheus_test.count")
	scrape = ipc.NewMethod[string, map[string]float64]("prometheus_test.scrape") // the worker's metrics
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	worker.Main("measured", serve)
	os.Exit(drivertest.VerifyNoLeaks(m.Run))
}

func serve() error {
	registry, metrics := newRegistry()
	s := worker.NewServer(worker.WithServerInterceptors(metrics.Interceptor()))
	worker.Handle(s, echo, func(_ context.Context, text string) (string, error) {
		switch text {
		case "not found":
			return "", ipc.NewError(ipc.CodeNotFound, text)
		case "panic":
			panic(text)
		case "die":
			os.Exit(3)
		}
		return text, nil
	})
	worker.Handle(s, hold, func(ctx context.Context, _ string) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	})
	worker.Handle(s, note, func(context.Context, string) (struct{}, error) { return struct{}{}, nil })
	worker.HandleServerStream(s, count, func(ctx context.Context, n int, out *ipc.Sender[int]) error {
		for i := range n {
			if err := out.Send(ctx, i); err != nil {
				return err
			}
		}
		return nil
	})
	worker.Handle(s, scrape, func(context.Context, string) (map[string]float64, error) { return values(registry) })
	return s.Serve(context.Background())
}

func newRegistry() (*client.Registry, *prometheus.Collector) {
	registry := client.NewPedanticRegistry()
	metrics := prometheus.NewCollector(prometheus.Options{Labels: client.Labels{"app": "test"}})
	registry.MustRegister(metrics)
	return registry, metrics
}

// values returns all metrics by their names and labels; of histograms and summaries count and sum.
func values(g client.Gatherer) (map[string]float64, error) {
	families, err := g.Gather()
	if err != nil {
		return nil, err
	}
	all := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				if l.GetName() != "app" {
					labels = append(labels, strings.TrimPrefix(l.GetValue(), "prometheus_test."))
				}
			}
			name := f.GetName() + "{" + strings.Join(labels, ",") + "}"
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				all[name] = m.GetCounter().GetValue()
			case dto.MetricType_GAUGE:
				all[name] = m.GetGauge().GetValue()
			case dto.MetricType_HISTOGRAM:
				all[name+".count"] = float64(m.GetHistogram().GetSampleCount())
				all[name+".sum"] = m.GetHistogram().GetSampleSum()
			case dto.MetricType_SUMMARY:
				all[name+".count"] = float64(m.GetSummary().GetSampleCount())
				all[name+".sum"] = m.GetSummary().GetSampleSum()
			}
		}
	}
	return all, nil
}

func here(t require.TestingT, g client.Gatherer) map[string]float64 {
	all, err := values(g)
	require.NoError(t, err)
	return all
}

// Both sides of calls and notifications are measured.
func TestClientAndServer(t *testing.T) {
	for _, driver := range []string{"shm", "socket"} {
		t.Run(driver, func(t *testing.T) {
			registry, metrics := newRegistry()
			var w interface {
				ipc.Caller
				Close() error
			}
			var err error
			if driver == "shm" {
				w, err = worker.Spawn(t.Context(), worker.Self("measured"), shm.Driver{}, worker.WithInterceptors(metrics.Interceptor()))
			} else {
				w, err = worker.Spawn(t.Context(), worker.Self("measured"), socket.Driver{}, worker.WithInterceptors(metrics.Interceptor()))
			}
			require.NoError(t, err)
			defer w.Close()
			for _, text := range []string{"a", "bb", "ccc", "not found", "panic"} {
				_, _ = echo.Call(t.Context(), w, text)
			}
			require.NoError(t, note.Notify(t.Context(), w, "x"))

			for _, err := range count.Stream(t.Context(), w, 10) {
				require.NoError(t, err)
			}

			ctx, cancel := context.WithCancel(t.Context())
			var held sync.WaitGroup
			for range 3 {
				held.Go(func() { _, _ = hold.Call(ctx, w, "") })
			}
			whole := t.Context()
			theirs := func(t require.TestingT) map[string]float64 {
				m, err := scrape.Call(whole, w, "")
				require.NoError(t, err)
				return m
			}
			require.Eventually(t, func() bool { return theirs(t)["tandem_handlers_in_flight{hold}"] == 3 }, time.Minute, time.Millisecond)
			require.EqualValues(t, 3, here(t, registry)["tandem_calls_in_flight{hold}"])
			cancel()
			held.Wait()
			check := func(t require.TestingT, m map[string]float64, name string, want float64) {
				got, ok := m[name]
				require.True(t, ok, "%s of %v", name, m)
				require.Equal(t, want, got, name)
			}
			require.EventuallyWithT(t, func(t *assert.CollectT) { // handlers that have answered are counted one after the other
				for what, m := range map[string]map[string]float64{"call": here(t, registry), "handler": theirs(t)} {
					for name, want := range map[string]float64{
						"s_total{ok,echo}": 3, "s_total{not_found,echo}": 1, "s_total{internal,echo}": 1, "s_total{canceled,hold}": 3, "s_total{ok,note}": 1,
						"s_in_flight{echo}": 0, "s_in_flight{hold}": 0, "s_in_flight{note}": 0,
						"_duration_seconds{echo}.count": 5, "_duration_seconds{note}.count": 1,
						"_request_bytes{echo}.count": 5, "_request_bytes{echo}.sum": 2 + 3 + 4 + 10 + 6,
						"_response_bytes{echo}.count": 3, "_response_bytes{echo}.sum": 2 + 3 + 4,
						"s_total{ok,count}": 1, "s_in_flight{count}": 0, "_duration_seconds{count}.count": 1,
					} {
						check(t, m, "tandem_"+what+name, want)
					}
					require.Positive(t, m["tandem_"+what+"_duration_seconds{echo}.sum"])
					require.NotContains(t, m, "tandem_"+what+"_response_bytes{note}.count")
				}
				m := here(t, registry)
				check(t, m, "tandem_attempts_total{ok,echo}", 3)
				check(t, m, "tandem_call_items_total{count,received}", 10)
				check(t, m, "tandem_call_item_bytes_total{count,received}", 10)
				check(t, m, "tandem_call_items_total{count,sent}", 0)
				check(t, theirs(t), "tandem_handler_items_total{count,sent}", 10)
				check(t, theirs(t), "tandem_handler_items_total{count,received}", 1)
			}, time.Minute, time.Millisecond)
		})
	}
}

// Attempts are counted by themselves, and pools have metrics of their own.
func TestPools(t *testing.T) {
	registry, metrics := newRegistry()
	p, err := pool.New(t.Context(), 2, worker.Self("measured"), socket.Driver{},
		pool.WithWorkers(worker.WithRetry(2), worker.WithInterceptors(metrics.Interceptor())))
	require.NoError(t, err)
	defer p.Close()
	metrics.AddPool("p", p)
	require.Panics(t, func() { metrics.AddPool("p", p) })
	for range 5 {
		_, err := echo.Call(t.Context(), p, "x")
		require.NoError(t, err)
	}
	_, err = echo.Call(t.Context(), p, "die")
	require.ErrorIs(t, err, ipc.ErrPeerGone)
	require.Eventually(t, func() bool { return p.Stats().Size == 2 }, time.Minute, time.Millisecond)
	require.EqualValues(t, 2, p.Stats().Restarts)
	m := here(t, registry)
	for name, want := range map[string]float64{
		"tandem_calls_total{ok,echo}": 5, "tandem_calls_total{unavailable,echo}": 1,
		"tandem_attempts_total{ok,echo}": 5, "tandem_attempts_total{unavailable,echo}": 2,
		"tandem_pool_workers{p,serving}": 2, "tandem_pool_workers{p,starting}": 0, "tandem_pool_workers{p,given_up}": 0,
		"tandem_pool_calls{p,running}": 0, "tandem_pool_calls{p,queued}": 0,
		"tandem_pool_ended_total{p,ok}": 5, "tandem_pool_ended_total{p,failed}": 1, "tandem_pool_ended_total{p,retried}": 1,
		"tandem_pool_unserved_total{p,rejected}": 0, "tandem_pool_unserved_total{p,abandoned}": 0,
		"tandem_pool_replaced_total{p,restart}": 2, "tandem_pool_replaced_total{p,recycle}": 0, "tandem_pool_forgotten_total{p}": 0,
		"tandem_pool_run_seconds{p}.count": 7, "tandem_pool_wait_seconds{p}.count": 7,
	} {
		got, ok := m[name]
		require.True(t, ok, "%s of %v", name, m)
		require.Equal(t, want, got, name)
	}
	require.Positive(t, m["tandem_pool_busy_seconds_total{p}"])
	require.Positive(t, m["tandem_pool_available_seconds_total{p}"])
	require.Positive(t, m["tandem_pool_run_seconds{p}.sum"])

	metrics.RemovePool("p")
	require.NotContains(t, here(t, registry), "tandem_pool_ended_total{p,ok}")
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
}
