package otel

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tandemipc/tandem/ipc"
)

// instruments measure calls, or handlers.
type instruments struct {
	serves            bool
	duration          metric.Float64Histogram
	request, response metric.Int64Histogram
	active            metric.Int64UpDownCounter
	requests, answers metric.Int64Histogram // items of a stream
}

// Calls through shared memory take less than a microsecond, and others may take minutes.
var durations = []float64{
	500e-9, 1e-6, 2.5e-6, 5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3,
	1, 2.5, 5, 10, 30, 60, 300,
}

var sizes = []float64{64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20}

var counts = []float64{0, 1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 1 << 18, 1 << 20, 1 << 22}

// newInstruments makes the instruments of a role, client or server.
func newInstruments(m metric.Meter, role string) (*instruments, error) {
	in := &instruments{serves: role == "server"}
	var errs [6]error
	in.duration, errs[0] = m.Float64Histogram("rpc."+role+".call.duration", metric.WithUnit("s"),
		metric.WithDescription("How long calls take."), metric.WithExplicitBucketBoundaries(durations...))
	in.request, errs[1] = m.Int64Histogram("rpc."+role+".request.size", metric.WithUnit("By"),
		metric.WithDescription("The size of encoded requests."), metric.WithExplicitBucketBoundaries(sizes...))
	in.response, errs[2] = m.Int64Histogram("rpc."+role+".response.size", metric.WithUnit("By"),
		metric.WithDescription("The size of encoded responses."), metric.WithExplicitBucketBoundaries(sizes...))
	in.active, errs[3] = m.Int64UpDownCounter("rpc."+role+".active_requests",
		metric.WithDescription("Calls that have begun and not ended."))
	in.requests, errs[4] = m.Int64Histogram("rpc."+role+".requests_per_rpc", metric.WithUnit("{count}"),
		metric.WithDescription("Items of a stream from the side that has opened it."), metric.WithExplicitBucketBoundaries(counts...))
	in.answers, errs[5] = m.Int64Histogram("rpc."+role+".responses_per_rpc", metric.WithUnit("{count}"),
		metric.WithDescription("Items of a stream from its handler."), metric.WithExplicitBucketBoundaries(counts...))
	return in, errors.Join(errs[:]...)
}

// record measures what has ended with err.
func (in *instruments) record(ctx context.Context, call *ipc.Call, took time.Duration, err error) {
	attrs := metric.WithAttributeSet(attribute.NewSet(append(outcome(err), system, semconv.RPCMethod(call.Method.Name))...))
	in.duration.Record(ctx, took.Seconds(), attrs)
	if call.Stream {
		requests, answers := call.Sent.Count, call.Received.Count
		if in.serves {
			requests, answers = answers, requests
		}
		in.requests.Record(ctx, requests, attrs)
		in.answers.Record(ctx, answers, attrs)
		return
	}
	in.request.Record(ctx, int64(call.RequestSize), attrs)
	if err == nil && !call.OneWay {
		in.response.Record(ctx, int64(call.ResponseSize), attrs)
	}
}
