//go:build unix

package otel_test

import (
	"context"
	"fmt"
	"log"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/otel"
)

// A host whose calls are spans. Its worker has an interceptor like it, so the spans of handlers
// are children of those of calls.
func ExampleNew() {
	spans := tracetest.NewInMemoryExporter() // a program would send them to a collector
	telemetry, err := otel.New(
		otel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))),
		otel.WithPropagator(propagation.TraceContext{}),
	)
	if err != nil {
		log.Fatal(err)
	}
	w, err := worker.Start(context.Background(), worker.Self("otel"), worker.WithInterceptors(telemetry))
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	if _, err := echo.Call(context.Background(), w, "hello"); err != nil {
		log.Fatal(err)
	}
	for _, s := range spans.GetSpans() {
		fmt.Println(s.SpanKind, s.Name)
	}
	// Output:
	// client otel_test.echo
}
