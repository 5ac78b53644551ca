// Package jetipc takes pipelines and topics onto NATS JetStream: a [Source] and a [Sink] for package
// worker/pipeline, so that pipelines run on several machines and lose nothing between them, and
// topics with history, [Publisher] and [Subscription].
//
//	consumer, err := js.CreateOrUpdateConsumer(ctx, "LINES", jetstream.ConsumerConfig{Durable: "parse", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000})
//	source, err := jetipc.NewSource[Line](ctx, js, consumer)
//	sink, err := jetipc.NewSink[Word](ctx, js, "words", source.Origin())
//	defer sink.Close()
//	err = pipeline.Through(pipeline.FromNumbered(source), Parse, parsers).Into(ctx, sink)
//
// Streams and consumers are made with nats.go's own API, package github.com/nats-io/nats.go/jetstream. docs/distribution.md says
// what is guaranteed.
package jetipc
