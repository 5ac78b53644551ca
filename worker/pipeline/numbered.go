package pipeline

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync/atomic"
)

// Numbered is a source that numbers its records itself, and is told of each one that is done with, such as a
// log that several processes read together: a process gets some of the records, and those of a process that has
// died come to another one, with the IDs that they had.
//
// It remembers what is done with. So there are no checkpoints: see [FromNumbered].
type Numbered[T any] interface {
	// Records returns records with their IDs. Their positions may come in any order, with gaps. A
	// record whose position is in the run already, and not done with, ends the pipeline with an error. An error of the
	// sequence ends it when what came before is through. ctx ends when no more are needed.
	//
	// Records of type []byte may use the same memory again for the next one.
	Records(ctx context.Context) iter.Seq2[Item[T], error]
	// Done says which positions are done with, in no order: what has become of their records was taken by
	// the sink, which was flushed if it has a method Flush, skipped, or taken as a dead letter. It is called
	// now and then, never concurrently, and at the end. It may not keep the slice. An error ends the pipeline.
	Done(ctx context.Context, positions []uint64) error
	// Release says that the run is over, and which positions it has taken without Done having returned nil for
	// them, in no order. It is called once in a run, after all other calls, and after Records has returned.
	Release(positions []uint64)
}

// FromNumbered begins a pipeline with a source that numbers its records itself. Into panics if it is to [Save]
// checkpoints, or to [Resume]. [Reach] bounds how many records are taken and not done with, and the
// Position of [Stats] is how many are.
func FromNumbered[T any](source Numbered[T], opts ...SourceOption) *Flow[T] {
	if source == nil {
		panic("tandem: pipeline: FromNumbered(nil)")
	}
	f := newFlow[T](opts)
	f.build = func(r *run, next taker[T]) {
		if r.save != nil || r.resumed.Position != 0 {
			panic("tandem: pipeline: Save and Resume are not for a source that remembers what is done with")
		}
		p := &numberedPump[T]{run: r, source: source, next: next}
		r.taken = &p.taken
		r.track.open = make(map[uint64]struct{})
		r.done, r.release = source.Done, source.Release
		r.pump = func() error { defer next.end(); return p.start() }
	}
	return f
}

// numberedPump moves records from a source that numbers them into a pipeline.
type numberedPump[T any] struct {
	run    *run
	source Numbered[T]
	next   taker[T]
	taken  atomic.Uint64
}

// start moves all records. It returns the source's error.
func (p *numberedPump[T]) start() error {
	ctx, track := p.run.sourceCtx, p.run.track
	var reserved uint64
	var failed error
	for item, err := range p.source.Records(ctx) {
		if err != nil {
			if ctx.Err() == nil {
				failed = err
			}
			break
		}
		// First of all: what was taken is released, whatever ends the run.
		if !track.enter(item.ID.Pos) {
			failed = fmt.Errorf("tandem: pipeline: the source has two records with the position %d at a time", item.ID.Pos)
			break
		}
		if ctx.Err() != nil {
			break
		}
		if reserved == 0 {
			if reserved = track.reserve(ctx, positions); reserved == 0 {
				break
			}
		}
		reserved--
		p.taken.Add(1)
		if p.next.value(item.ID, item.Record) != nil || p.next.pause() != nil {
			break
		}
	}
	track.giveBack(reserved)
	return failed
}

// enter notes a position that its source has named. It returns false if it is there.
func (t *tracker) enter(pos uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.open[pos]; ok {
		return false
	}
	t.open[pos] = struct{}{}
	return true
}

// leave notes that a position is complete that its source has named. t.mu is held.
func (t *tracker) leave(pos uint64) {
	delete(t.open, pos)
	t.finished = append(t.finished, pos)
}

// takeFinished appends the positions that have left since the last call.
func (t *tracker) takeFinished(to []uint64) []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	to = append(to, t.finished...)
	t.finished = t.finished[:0]
	return to
}

// unfinished appends the positions that have been entered, and are not complete.
func (t *tracker) unfinished(to []uint64) []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.AppendSeq(to, maps.Keys(t.open))
}
