// Package pipeline moves records from a source through stages in worker processes into a sink, and
// loses none.
//
//	p := pipeline.From(lines)                                          // iter.Seq2[string, error], or a Source
//	recs := pipeline.Through(p, Parse, parsers, pipeline.Ordered())    // a method of a pool's workers
//	hits := pipeline.Through(recs, Enrich, enrichers, pipeline.By(func(r Record) string { return r.User }))
//	err := hits.Into(ctx, sink)
//
// The worker's side registers its handlers with [Handle].
//
// A record that was taken from the source is held, encoded, by one stage after the other, until the
// sink has taken what became of it; only then the source is told that it may forget it. What a
// worker has not answered when it dies, or hangs, goes to another one. What the stages hold is
// bounded in bytes ([Window]), so a slow stage or sink makes the source wait.
//
// docs/pipelines.md says what is guaranteed, and what is not.
package pipeline
