// Package otel has an interceptor that makes traces and metrics of calls and handlers with
// OpenTelemetry, metrics of pipelines, and carries the context of a trace from process to process, in the metadata of
// requests. It is a module of its own.
//
// Give it to both sides:
//
//	telemetry, err := otel.New()
//	...
//	worker.Spawn(ctx, cmd, shm.Driver{}, worker.WithInterceptors(telemetry))  // in the host
//	worker.NewServer(worker.WithServerInterceptors(telemetry))                // in the worker
//
// # Traces
//
// A call or a stream is a span of kind client, and its handler one of kind server; a notification is one of
// kind producer, and its handler one of kind consumer. The span of the handler is a child of that
// of the call. Its name is that of the method. Attributes are rpc.system.name (tandem), rpc.method,
// rpc.response.status_code (the code in lower case, ok for none), error.type, the sizes of the
// messages as rpc.request.size and rpc.response.size, or the numbers of items of a stream as
// tandem.items.sent and tandem.items.received, and the id of the other process as network.peer.pid. Each attempt after the first, and each that has failed, is an event of the span.
//
// # Metrics
//
//	rpc.client.call.duration      s   histogram
//	rpc.client.request.size       By  histogram
//	rpc.client.response.size      By  histogram
//	rpc.client.active_requests        up and down counter
//	rpc.client.requests_per_rpc       histogram, of the items that a stream has sent to its handler
//	rpc.client.responses_per_rpc      histogram, of those that have come back
//
// and the same with server for handlers. Attributes are rpc.system.name, rpc.method and, but for
// the last one, rpc.response.status_code and error.type.
//
// Of each pipeline ([AddPipeline]) there are, when metrics are read, with the attribute tandem.pipeline, and tandem.stage for those of stages:
//
//	tandem.pipeline.position, .size, .written    gauges
//	tandem.pipeline.stage.records                counter, way: in, out
//	tandem.pipeline.stage.bytes              By  counter, way: in, out
//	tandem.pipeline.stage.queued                 gauge
//	tandem.pipeline.stage.held, .window      By  gauges
//	tandem.pipeline.stage.in_flight              gauge, of batches
//	tandem.pipeline.stage.batches                counter
//	tandem.pipeline.stage.batch.time         s   counter, of all batches together
//	tandem.pipeline.stage.batch.duration     s   gauge, quantile: 0.5, 0.99, 0.999, 1
//	tandem.pipeline.stage.busy               s   counter
//	tandem.pipeline.stage.again                  counter, reason: record, death, hang
//	tandem.pipeline.stage.left_out               counter, reason: skipped, dead_letter
//
// as pipeline.Stats has them. A run that begins makes the counters begin again.
package otel

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/tandemipc/tandem/ipc"
)

// scope names this package in what it makes.
const scope = "github.com/tandemipc/tandem/worker/otel"

var system = semconv.RPCSystemNameKey.String("tandem")

// Option is an option of [New].
type Option func(*config)

type config struct {
	tracers    trace.TracerProvider
	meters     metric.MeterProvider
	propagator propagation.TextMapPropagator
}

// WithTracerProvider sets where tracers come from; the default is that of package
// go.opentelemetry.io/otel.
func WithTracerProvider(p trace.TracerProvider) Option { return func(c *config) { c.tracers = p } }

// WithMeterProvider sets where meters come from; the default is that of package
// go.opentelemetry.io/otel.
func WithMeterProvider(p metric.MeterProvider) Option { return func(c *config) { c.meters = p } }

// WithPropagator sets what puts the context of a trace into metadata, and takes it from there;
// the default is that of package go.opentelemetry.io/otel, which does nothing until the program
// sets another one.
func WithPropagator(p propagation.TextMapPropagator) Option {
	return func(c *config) { c.propagator = p }
}

// New returns an interceptor for clients, pools and servers. It fails if an instrument cannot be
// made.
func New(opts ...Option) (ipc.Interceptor, error) {
	c := config{otel.GetTracerProvider(), otel.GetMeterProvider(), otel.GetTextMapPropagator()}
	for _, opt := range opts {
		opt(&c)
	}
	meter := c.meters.Meter(scope)
	client, err := newInstruments(meter, "client")
	if err != nil {
		return ipc.Interceptor{}, err
	}
	server, err := newInstruments(meter, "server")
	if err != nil {
		return ipc.Interceptor{}, err
	}
	t := &telemetry{tracer: c.tracers.Tracer(scope), propagator: c.propagator, client: client, server: server}
	return ipc.Interceptor{Call: t.call, Attempt: t.attempt, Handle: t.handle}, nil
}

type telemetry struct {
	tracer         trace.Tracer
	propagator     propagation.TextMapPropagator
	client, server *instruments
}

// call is around a call or notification that this side makes.
func (t *telemetry) call(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
	kind := trace.SpanKindClient
	if call.OneWay {
		kind = trace.SpanKindProducer
	}
	ctx, span := t.start(ctx, call, kind)
	md := call.Metadata
	t.propagator.Inject(ctx, carrier{&md})
	if md.Check() == nil { // telemetry does not make a call fail that would succeed without
		call.Metadata = md
	}
	return t.around(ctx, call, span, t.client, next)
}

// attempt is around an attempt of a call.
func (t *telemetry) attempt(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
	err := next(ctx)
	if span := trace.SpanFromContext(ctx); span.IsRecording() && (err != nil || call.Attempt > 1) {
		span.AddEvent("attempt", trace.WithAttributes(append(outcome(err), attribute.Int("attempt", call.Attempt), peerPID(call))...))
	}
	return err
}

// handle is around a handler.
func (t *telemetry) handle(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
	kind := trace.SpanKindServer
	if call.OneWay {
		kind = trace.SpanKindConsumer
	}
	ctx, span := t.start(t.propagator.Extract(ctx, carrier{&call.Metadata}), call, kind)
	return t.around(ctx, call, span, t.server, next)
}

func (t *telemetry) start(ctx context.Context, call *ipc.Call, kind trace.SpanKind) (context.Context, trace.Span) {
	return t.tracer.Start(ctx, call.Method.Name, trace.WithSpanKind(kind), trace.WithAttributes(system, semconv.RPCMethod(call.Method.Name)))
}

// around calls next, and then ends the span and records what there is to measure, also if next
// does not return.
func (t *telemetry) around(ctx context.Context, call *ipc.Call, span trace.Span, in *instruments, next func(context.Context) error) (err error) {
	began := time.Now()
	method := metric.WithAttributeSet(attribute.NewSet(system, semconv.RPCMethod(call.Method.Name)))
	in.active.Add(ctx, 1, method)
	returned := false
	defer func() {
		if !returned {
			err = errPanicked // for what is recorded; the panic goes on
		}
		in.active.Add(ctx, -1, method)
		in.record(ctx, call, time.Since(began), err)
		if span.IsRecording() {
			end(span, call, in.serves, err)
		}
		span.End()
	}()
	err = next(ctx)
	returned = true
	return err
}

var errPanicked = ipc.NewError(ipc.CodeInternal, "panicked, or ended its goroutine")

// end says in the span how it went.
func end(span trace.Span, call *ipc.Call, serves bool, err error) {
	attrs := outcome(err)
	if call.Stream {
		attrs = append(attrs, attribute.Int64("tandem.items.sent", call.Sent.Count), attribute.Int64("tandem.items.received", call.Received.Count))
	} else {
		attrs = append(attrs, attribute.Int("rpc.request.size", call.RequestSize))
		if err == nil && !call.OneWay {
			attrs = append(attrs, attribute.Int("rpc.response.size", call.ResponseSize))
		}
	}
	if call.Peer.PID != 0 {
		attrs = append(attrs, peerPID(call))
	}
	span.SetAttributes(attrs...)
	if err != nil {
		span.RecordError(err)
		if !serves || isServersFault(ipc.CodeOf(err)) {
			span.SetStatus(codes.Error, err.Error())
		}
	}
}

// isServersFault reports whether an error of this code is one of the handler, rather than of
// its caller.
func isServersFault(c ipc.Code) bool {
	switch c {
	case ipc.CodeUnknown, ipc.CodeDeadlineExceeded, ipc.CodeUnimplemented, ipc.CodeInternal, ipc.CodeUnavailable, ipc.CodeDataLoss:
		return true
	}
	return false
}

// outcome returns the attributes of an error, or of none.
func outcome(err error) []attribute.KeyValue {
	if err == nil {
		return []attribute.KeyValue{semconv.RPCResponseStatusCode("ok")}
	}
	code := ipc.CodeOf(err).String()
	return []attribute.KeyValue{semconv.RPCResponseStatusCode(code), semconv.ErrorTypeKey.String(code)}
}

func peerPID(call *ipc.Call) attribute.KeyValue {
	return attribute.Int("network.peer.pid", call.Peer.PID)
}

// carrier makes metadata a [propagation.TextMapCarrier].
type carrier struct{ md *ipc.Metadata }

// Get implements [propagation.TextMapCarrier].
func (c carrier) Get(key string) string { return c.md.Get(strings.ToLower(key)) }

// Set implements [propagation.TextMapCarrier].
func (c carrier) Set(key, value string) { c.md.Set(strings.ToLower(key), value) }

// Keys implements [propagation.TextMapCarrier].
func (c carrier) Keys() []string {
	keys := make([]string, len(*c.md))
	for i, f := range *c.md {
		keys[i] = f.Key
	}
	return keys
}
