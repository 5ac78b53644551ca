//go:build unix

package otel_test

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/otel"
	"github.com/tandemipc/tandem/worker/pool"
)

// The contract of the test worker.
var (
	echo      = ipc.NewMethod[string, string]("otel_test.echo", ipc.WithIdempotent())
	ask       = ipc.NewMethod[string, string]("otel_test.ask") // echo of the host
	note      = ipc.NewMethod[string, struct{}]("otel_test.note")
	baggageOf = ipc.NewMethod[string, string]("otel_test.baggage")
	relay     = ipc.NewBidiStream[int, int]("otel_test.relay") // each number so many times
	spansOf   = ipc.NewMethod[int, []span]("otel_test.spans")  // that the worker has made
	pointsOf  = ipc.NewMethod[int, []point]("otel_test.points")
)

// span is what the tests look at of a span.
type span struct {
	Name, Kind, Trace, ID, Parent string
	Remote                        bool // the parent is of another process
	Status                        string
	Attributes                    map[string]string
	Events                        []string
}

// point is what they look at of a metric, for one set of attributes.
type point struct {
	Name, Unit string
	Attributes map[string]string
	Count      uint64
	Sum        float64
}

func text(attrs []attribute.KeyValue) map[string]string {
	m := make(map[string]string)
	for _, kv := range attrs {
		m[string(kv.Key)] = kv.Value.String()
	}
	return m
}

// memory has what a process has made.
type memory struct {
	spans   *tracetest.InMemoryExporter
	metrics *sdkmetric.ManualReader
	ipc.Interceptor

	mu    sync.Mutex
	taken int // spans
}

func newMemory() (*memory, error) {
	m := &memory{spans: tracetest.NewInMemoryExporter(), metrics: sdkmetric.NewManualReader()}
	var err error
	m.Interceptor, err = otel.New(
		otel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(m.spans))),
		otel.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(m.metrics))),
		otel.WithPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})),
	)
	return m, err
}

// take returns the spans that have ended since it was called last.
func (m *memory) take() (all []span) {
	m.mu.Lock()
	defer m.mu.Unlock()
	spans := m.spans.GetSpans()
	ended := spans[m.taken:]
	m.taken = len(spans)
	for _, s := range ended {
		one := span{
			Name: s.Name, Kind: s.SpanKind.String(), Trace: s.SpanContext.TraceID().String(), ID: s.SpanContext.SpanID().String(),
			Status: s.Status.Code.String(), Attributes: text(s.Attributes),
		}
		if s.Parent.IsValid() {
			one.Parent, one.Remote = s.Parent.SpanID().String(), s.Parent.IsRemote()
		}
		for _, e := range s.Events {
			a := text(e.Attributes)
			one.Events = append(one.Events, strings.TrimSpace(e.Name+" "+a["attempt"]+" "+a["rpc.response.status_code"]))
		}
		all = append(all, one)
	}
	return all
}

// points returns the metrics.
func (m *memory) points() (all []point, err error) {
	var data metricdata.ResourceMetrics
	if err := m.metrics.Collect(context.Background(), &data); err != nil {
		return nil, err
	}
	for _, scope := range data.ScopeMetrics {
		for _, metric := range scope.Metrics {
			add := func(attrs attribute.Set, count uint64, sum float64) {
				all = append(all, point{metric.Name, metric.Unit, text(attrs.ToSlice()), count, sum})
			}
			switch d := metric.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					add(p.Attributes, p.Count, p.Sum)
				}
			case metricdata.Histogram[int64]:
				for _, p := range d.DataPoints {
					add(p.Attributes, p.Count, float64(p.Sum))
				}
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					add(p.Attributes, 0, float64(p.Value))
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b point) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	worker.Main("otel", serve)
	os.Exit(drivertest.VerifyNoLeaks(m.Run))
}

func serve() error {
	own, err := newMemory()
	if err != nil {
		return err
	}
	s := worker.NewServer(worker.WithServerInterceptors(own.Interceptor))
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
	worker.Handle(s, ask, func(ctx context.Context, text string) (string, error) { return echo.Call(ctx, worker.Host(ctx), text) })
	worker.Handle(s, note, func(context.Context, string) (struct{}, error) { return struct{}{}, nil })
	worker.HandleBidiStream(s, relay, func(ctx context.Context, in *ipc.Receiver[int], out *ipc.Sender[int]) error {
		for n, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			for range n {
				if err := out.Send(ctx, n); err != nil {
					return err
				}
			}
		}
		return nil
	})
	worker.Handle(s, baggageOf, func(ctx context.Context, key string) (string, error) {
		return baggage.FromContext(ctx).Member(key).Value(), nil
	})
	worker.Handle(s, spansOf, func(context.Context, int) ([]span, error) { return own.take(), nil })
	worker.Handle(s, pointsOf, func(context.Context, int) ([]point, error) { return own.points() })
	return s.Serve(context.Background())
}

type client interface {
	ipc.Caller
	worker.Registrar
	PID() int
	Close() error
}

// eachDriver runs a test with a worker of each driver.
func eachDriver(t *testing.T, test func(t *testing.T, own *memory, w client)) {
	for _, driver := range []string{"shm", "socket"} {
		t.Run(driver, func(t *testing.T) {
			own, err := newMemory()
			require.NoError(t, err)
			var w client
			if driver == "shm" {
				w, err = worker.Spawn(t.Context(), worker.Self("otel"), shm.Driver{}, worker.WithInterceptors(own.Interceptor))
			} else {
				w, err = worker.Spawn(t.Context(), worker.Self("otel"), socket.Driver{}, worker.WithInterceptors(own.Interceptor))
			}
			if errors.Is(err, ipc.ErrUnsupported) {
				t.Skip(err)
			}
			require.NoError(t, err)
			defer w.Close()
			test(t, own, w)
		})
	}
}

// theirs returns the spans of the worker, but for those of asking for them.
func theirs(t *testing.T, own *memory, w ipc.Caller) []span {
	t.Helper()
	spans, err := spansOf.Call(t.Context(), w, 0)
	require.NoError(t, err)
	own.take()
	return slices.DeleteFunc(spans, func(s span) bool { return s.Name == spansOf.Info().Name })
}

// A trace goes through both processes and back.
func TestTraces(t *testing.T) {
	eachDriver(t, func(t *testing.T, own *memory, w client) {
		worker.Handle(w, echo, func(_ context.Context, text string) (string, error) { return text, nil })
		_, err := ask.Call(t.Context(), w, "hello")
		require.NoError(t, err)
		var here, there []span
		eventually(t, func() bool { here = append(here, own.take()...); return len(here) == 2 })
		there = theirs(t, own, w)
		require.Len(t, there, 2)

		// From the outermost to the innermost: call, its handler, the callback, its handler.
		chain := []span{here[1], there[1], there[0], here[0]}
		for i, want := range []struct{ name, kind string }{
			{"otel_test.ask", "client"}, {"otel_test.ask", "server"}, {"otel_test.echo", "client"}, {"otel_test.echo", "server"},
		} {
			s := chain[i]
			require.Equal(t, want.name, s.Name)
			require.Equal(t, want.kind, s.Kind)
			require.Equal(t, chain[0].Trace, s.Trace)
			require.Equal(t, codes.Unset.String(), s.Status)
			pid := s.Attributes["network.peer.pid"]
			require.NotEmpty(t, pid)
			delete(s.Attributes, "network.peer.pid")
			require.Equal(t, map[string]string{
				"rpc.system.name": "tandem", "rpc.method": want.name, "rpc.response.status_code": "ok",
				"rpc.request.size": "6", "rpc.response.size": "6",
			}, s.Attributes)
			if i == 0 {
				require.Empty(t, s.Parent)
			} else {
				require.Equal(t, chain[i-1].ID, s.Parent)
				require.Equal(t, i%2 == 1, s.Remote)
			}
		}

		// Streams.
		st, err := relay.Open(t.Context(), w)
		require.NoError(t, err)
		require.NoError(t, st.Send(t.Context(), 3))
		require.NoError(t, st.Send(t.Context(), 4))
		require.NoError(t, st.CloseSend(t.Context()))
		items := 0
		for _, err := range st.All(t.Context()) {
			require.NoError(t, err)
			items++
		}
		require.Equal(t, 7, items)
		here = nil
		eventually(t, func() bool { here = append(here, own.take()...); return len(here) == 1 })
		there = theirs(t, own, w)
		require.Len(t, there, 1)
		require.Equal(t, here[0].ID, there[0].Parent)
		require.Equal(t, []string{"client", "server"}, []string{here[0].Kind, there[0].Kind})
		for _, s := range []struct {
			span
			sent, received string
		}{{here[0], "2", "7"}, {there[0], "7", "2"}} {
			require.Equal(t, s.sent, s.Attributes["tandem.items.sent"])
			require.Equal(t, s.received, s.Attributes["tandem.items.received"])
			require.NotContains(t, s.Attributes, "rpc.request.size")
		}
		points, err := own.points()
		require.NoError(t, err)
		for name, want := range map[string]float64{"rpc.client.requests_per_rpc": 2, "rpc.client.responses_per_rpc": 7} {
			i := slices.IndexFunc(points, func(p point) bool { return p.Name == name })
			require.GreaterOrEqual(t, i, 0, name)
			require.Equal(t, want, points[i].Sum)
		}

		// Notifications, within a span of ours.
		tracer := sdktrace.NewTracerProvider().Tracer("test")
		ctx, parent := tracer.Start(t.Context(), "outside")
		require.NoError(t, note.Notify(ctx, w, "x"))
		here = own.take()
		require.Len(t, here, 1)
		require.Equal(t, "producer", here[0].Kind)
		require.Equal(t, parent.SpanContext().SpanID().String(), here[0].Parent)
		there = nil
		eventually(t, func() bool { there = append(there, theirs(t, own, w)...); return len(there) > 0 })
		require.Equal(t, "consumer", there[0].Kind)
		require.Equal(t, here[0].ID, there[0].Parent)
		require.Equal(t, trace.SpanContextFromContext(ctx).TraceID().String(), there[0].Trace)

		// Baggage comes too, if it is not too large.
		for n, want := range map[int]string{5: "vvvvv", 7000: strings.Repeat("v", 7000)} {
			member, err := baggage.NewMember("k", strings.Repeat("v", n))
			require.NoError(t, err)
			bag, err := baggage.New(member)
			require.NoError(t, err)
			got, err := baggageOf.Call(baggage.ContextWithBaggage(t.Context(), bag), w, "k")
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		got, err := baggageOf.Call(t.Context(), w, "k", ipc.WithMetadata("much", strings.Repeat("x", ipc.MaxMetadata-50)))
		require.NoError(t, err, "no room for the context of the trace")
		require.Empty(t, got)
	})
}

func TestTracesOfErrors(t *testing.T) {
	eachDriver(t, func(t *testing.T, own *memory, w client) {
		for text, want := range map[string]struct{ code, here, there string }{
			"not found": {"not_found", "Error", "Unset"},
			"panic":     {"internal", "Error", "Error"},
		} {
			_, err := echo.Call(t.Context(), w, text)
			require.Error(t, err)
			here := own.take()
			require.Len(t, here, 1)
			there := theirs(t, own, w)
			require.Len(t, there, 1)
			require.Equal(t, want.here, here[0].Status)
			require.Equal(t, want.there, there[0].Status)
			for _, s := range []span{here[0], there[0]} {
				require.Equal(t, want.code, s.Attributes["rpc.response.status_code"])
				require.Equal(t, want.code, s.Attributes["error.type"])
				require.Contains(t, strings.Join(s.Events, ";"), "exception")
			}
		}
		_, err := echo.Call(t.Context(), w, "die")
		require.ErrorIs(t, err, ipc.ErrPeerGone)
		here := own.take()
		require.Len(t, here, 1)
		require.Equal(t, "unavailable", here[0].Attributes["error.type"])
		require.Contains(t, here[0].Events, "attempt 1 unavailable")
	})
}

// The attempts of a call are events of its span.
func TestTracesOfAttempts(t *testing.T) {
	own, err := newMemory()
	require.NoError(t, err)
	p, err := pool.New(t.Context(), 1, worker.Self("otel"), socket.Driver{}, pool.WithWorkers(worker.WithRetry(3), worker.WithInterceptors(own.Interceptor)))
	require.NoError(t, err)
	defer p.Close()
	_, err = echo.Call(t.Context(), p, "die")
	require.ErrorIs(t, err, ipc.ErrPeerGone)
	spans := own.take()
	require.Len(t, spans, 1)
	require.Equal(t, []string{"attempt 1 unavailable", "attempt 2 unavailable", "attempt 3 unavailable"}, spans[0].Events[:3])
}

func TestMetrics(t *testing.T) {
	eachDriver(t, func(t *testing.T, own *memory, w client) {
		var wg sync.WaitGroup
		for _, text := range []string{"a", "bb", "ccc", "not found"} {
			wg.Go(func() { _, _ = echo.Call(t.Context(), w, text) })
		}
		wg.Wait()
		here, err := own.points()
		require.NoError(t, err)
		there, err := pointsOf.Call(t.Context(), w, 0)
		require.NoError(t, err)
		for role, points := range map[string][]point{"client": here, "server": there} {
			type key struct{ name, code string }
			got := make(map[key]point)
			for _, p := range points {
				if p.Attributes["rpc.method"] != echo.Info().Name {
					continue
				}
				require.Equal(t, "tandem", p.Attributes["rpc.system.name"])
				name, ok := strings.CutPrefix(p.Name, "rpc."+role+".")
				require.True(t, ok, p.Name)
				got[key{name, p.Attributes["rpc.response.status_code"]}] = p
			}
			require.ElementsMatch(t, []key{
				{"active_requests", ""}, {"call.duration", "ok"}, {"call.duration", "not_found"},
				{"request.size", "ok"}, {"request.size", "not_found"}, {"response.size", "ok"},
			}, slices.Collect(maps.Keys(got)), role)
			require.Zero(t, got[key{"active_requests", ""}].Sum, role)
			ok := got[key{"call.duration", "ok"}]
			require.EqualValues(t, 3, ok.Count)
			require.Equal(t, "s", ok.Unit)
			require.Positive(t, ok.Sum)
			require.EqualValues(t, 1, got[key{"call.duration", "not_found"}].Count)
			require.Equal(t, "not_found", got[key{"call.duration", "not_found"}].Attributes["error.type"])
			size := got[key{"request.size", "ok"}]
			require.Equal(t, "By", size.Unit)
			require.EqualValues(t, 2+3+4, size.Sum)
			require.EqualValues(t, 2+3+4, got[key{"response.size", "ok"}].Sum)
		}
	})
}

// A panic of an interceptor inside ends the span, and goes on.
func TestPanicsEndSpans(t *testing.T) {
	own, err := newMemory()
	require.NoError(t, err)
	require.PanicsWithValue(t, "x", func() {
		_ = own.Call(t.Context(), &ipc.Call{Method: echo.Info()}, func(context.Context) error { panic("x") })
	})
	spans := own.take()
	require.Len(t, spans, 1)
	require.Equal(t, "internal", spans[0].Attributes["error.type"])
	points, err := own.points()
	require.NoError(t, err)
	require.Zero(t, points[0].Sum, points[0].Name)
}

func TestDefaultsAreThoseOfThePackage(t *testing.T) {
	i, err := otel.New()
	require.NoError(t, err)
	c := ipc.Call{Method: echo.Info()}
	ran := 0
	for _, f := range []ipc.InterceptFunc{i.Call, i.Attempt, i.Handle} {
		require.NoError(t, f(t.Context(), &c, func(context.Context) error { ran++; return nil }))
	}
	require.Equal(t, 3, ran)
	require.Empty(t, c.Metadata)
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, time.Minute, time.Millisecond)
}
