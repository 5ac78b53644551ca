package pipeline

import (
	"context"
	"iter"
	"sync/atomic"
)

// Source yields the records of a pipeline, and may forget those that were acknowledged.
type Source[T any] interface {
	// Records returns the records from a position on: the first one has position 0, and each
	// next one has the next position. Each time they have to be the same, but for those that
	// were acknowledged. An error ends the pipeline when what came before is through. ctx ends
	// when no more are needed.
	//
	// Records of type []byte may use the same memory again for the next one.
	Records(ctx context.Context, from uint64) iter.Seq2[T, error]
	// Ack says that all records before a position are done with: what has become of them was
	// taken by the sink, skipped, or taken as a dead letter. It is called now and then, never
	// concurrently, with growing positions, and at the end. An error ends the pipeline.
	Ack(ctx context.Context, before uint64) error
}

// SourceOption is an option of [From] and [FromSource].
type SourceOption func(*sourceOptions)

type sourceOptions struct {
	size  uint64
	reach uint64
}

// Size says how many records the source has, for progress and remaining time.
func Size(records uint64) SourceOption { return func(o *sourceOptions) { o.size = records } }

// Reach bounds how many records the source may be ahead of the oldest that is not done with; the
// default is 1,048,576. A record that takes long, where records come out as they come, then stops the
// source at last.
func Reach(records uint64) SourceOption {
	return func(o *sourceOptions) { o.reach = max(records, 1) }
}

// sequence is the Source of a sequence.
type sequence[T any] struct{ seq iter.Seq2[T, error] }

// Records implements [Source].
func (s sequence[T]) Records(_ context.Context, from uint64) iter.Seq2[T, error] {
	if from == 0 {
		return s.seq
	}
	return func(yield func(T, error) bool) {
		var pos uint64
		for v, err := range s.seq {
			if pos++; pos <= from && err == nil {
				continue
			}
			if !yield(v, err) {
				return
			}
		}
	}
}

// Ack implements [Source].
func (sequence[T]) Ack(context.Context, uint64) error { return nil }

// pump moves records from a source into a pipeline.
type pump[T any] struct {
	run    *run
	source Source[T]
	next   taker[T]
	taken  atomic.Uint64
}

// positions are reserved by the dozen, so that a record costs no lock.
const positions = 64

// start moves all records. It returns the source's error.
func (p *pump[T]) start() error {
	ctx := p.run.sourceCtx
	resumed := p.run.resumed
	pos := resumed.low()
	var reserved uint64
	var failed error
	for v, err := range p.source.Records(ctx, pos) {
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			failed = err
			break
		}
		if reserved == 0 {
			if reserved = p.run.track.reserve(ctx, positions); reserved == 0 {
				break
			}
		}
		id := ID{Pos: pos}
		pos, reserved = pos+1, reserved-1
		if resumed.isDone(id.Pos) {
			p.run.track.took(id)
			continue
		}
		p.taken.Add(1)
		if p.next.value(id, v) != nil || p.next.pause() != nil {
			break
		}
	}
	p.run.track.giveBack(reserved)
	return failed
}
