package pipeline

import (
	"context"
	"fmt"
	"iter"
	"reflect"
	"sync/atomic"

	"github.com/tandemipc/tandem/ipc"
)

// Flow is records of type T on their way: a source, and the stages behind it. It does nothing
// until it is given a sink, with [Flow.Into].
type Flow[T any] struct {
	build  func(r *run, next taker[T])
	source sourceOptions
	latest *atomic.Pointer[run]
}

// taker takes records: a stage or the end of the pipeline. One goroutine at a time calls it. Its methods wait while it
// has no room; their error says that the run is over.
type taker[T any] interface {
	value(id ID, v T) error
	// encoded is value for a record that codec has encoded. It keeps nothing of b.
	encoded(id ID, codec ipc.Codec, b []byte) error
	// frames is encoded for several records, of which each has a frame.
	frames(ids []ID, codec ipc.Codec, frames []byte) error
	// pause says that nothing follows at once.
	pause() error
	// end says that nothing follows.
	end()
}

// eachFrame is [taker.frames], one record after the other.
func eachFrame[T any](t taker[T], ids []ID, codec ipc.Codec, frames []byte) error {
	for _, id := range ids {
		f, rest, _ := nextFrame(frames)
		frames = rest
		if err := t.encoded(id, codec, f.body); err != nil {
			return err
		}
	}
	return nil
}

// From begins a pipeline with a sequence. An error that it yields ends the pipeline, after
// the records before it are through. Sequences that may block should end when the context of
// [Flow.Into] does: Into waits until the sequence returns or yields once more.
func From[T any](records iter.Seq2[T, error], opts ...SourceOption) *Flow[T] {
	if records == nil {
		panic("tandem: pipeline: From(nil)")
	}
	return FromSource[T](sequence[T]{records}, opts...)
}

// FromSource begins a pipeline with a source that takes acknowledgements and can begin anywhere.
func FromSource[T any](source Source[T], opts ...SourceOption) *Flow[T] {
	if source == nil {
		panic("tandem: pipeline: FromSource(nil)")
	}
	f := newFlow[T](opts)
	f.build = func(r *run, next taker[T]) {
		p := &pump[T]{run: r, source: source, next: next}
		r.taken = &p.taken
		r.ack = source.Ack
		r.pump = func() error { defer next.end(); return p.start() }
	}
	return f
}

// newFlow returns a flow that has no source yet.
func newFlow[T any](opts []SourceOption) *Flow[T] {
	f := &Flow[T]{source: sourceOptions{reach: 1 << 20}, latest: new(atomic.Pointer[run])}
	for _, opt := range opts {
		opt(&f.source)
	}
	return f
}

// Through sends the records through a stage: the method m of the workers of c, which is a pool, a
// client or any other caller. What the handler returns for a record goes on to the next stage.
// Give the method its handler with [Handle], so that many records cross by one call; any handler of
// worker.Handle does, with a call for each.
//
// A record that its worker has not answered when it dies is sent again to another one. So handlers
// may run more than once for a record, though not at the same time unless the first one hangs
// ([Hang]); what comes out of the stage comes out once. Give the pool retries of its own only if that is wanted for other
// calls: the stage does not use them.
//
// Through panics if the types of m carry buffers or files, which cannot be sent again, and if an
// option is for records of another type.
func Through[Req, Res any](in *Flow[Req], m *ipc.Method[Req, Res], c ipc.Caller, opts ...Option) *Flow[Res] {
	switch {
	case in == nil || m == nil || c == nil:
		panic("tandem: pipeline: Through with a nil flow, method or caller")
	}
	mustNotCarry[Req](m.Info().Name)
	mustNotCarry[Res](m.Info().Name)
	o := newOptions(m.Info().Name, opts)
	newStage[Req, Res](nil, m.Info(), m.Codec(c.Codec()), c, o, nil) // panics now, not later
	return &Flow[Res]{source: in.source, latest: new(atomic.Pointer[run]), build: func(r *run, next taker[Res]) {
		s := newStage[Req](r, m.Info(), m.Codec(c.Codec()), c, o, next)
		r.add(&s.core)
		r.work(s.emit)
		in.build(r, s)
	}}
}

// mustNotCarry panics if messages of type T may have attachments.
func mustNotCarry[T any](method string) {
	if t := reflect.TypeFor[T](); ipc.Carries(t) {
		panic(fmt.Sprintf("tandem: pipeline: method %q: a %v carries buffers or files, which cannot be sent again when a worker dies", method, t))
	}
}

// Flatten makes of each slice its elements, in order, each with an [ID] of its own.
func Flatten[T any](in *Flow[[]T]) *Flow[T] {
	return &Flow[T]{source: in.source, latest: new(atomic.Pointer[run]), build: func(r *run, next taker[T]) {
		in.build(r, &flattener[T]{r, next})
	}}
}

type flattener[T any] struct {
	run  *run
	next taker[T]
}

func (f *flattener[T]) value(id ID, list []T) error {
	if len(list) != 1 {
		f.run.track.split(id.Pos, len(list))
	}
	path := id.below()
	for i, v := range list {
		if err := f.next.value(ID{id.Pos, uint64(i) + 1, path}, v); err != nil {
			return err
		}
	}
	return nil
}

func (f *flattener[T]) encoded(id ID, codec ipc.Codec, b []byte) error {
	list, err := unmarshal[[]T](codec, b)
	if err != nil {
		return f.run.fail(&StageError{"flatten", id, fmt.Errorf("decode: %w", err)})
	}
	return f.value(id, list)
}

func (f *flattener[T]) frames(ids []ID, codec ipc.Codec, frames []byte) error {
	return eachFrame(f, ids, codec, frames)
}

func (f *flattener[T]) pause() error { return f.next.pause() }
func (f *flattener[T]) end()         { f.next.end() }

// Apply sends the records through a function in this process, one at a time, in order. name is for
// errors. Of the options only [OnError] and [DeadLetter] count.
func Apply[A, B any](in *Flow[A], name string, f func(ctx context.Context, record A) (B, error), opts ...Option) *Flow[B] {
	if in == nil || f == nil {
		panic("tandem: pipeline: Apply with a nil flow or function")
	}
	o := newOptions(name, opts)
	j := newJudge[A](&o)
	return &Flow[B]{source: in.source, latest: new(atomic.Pointer[run]), build: func(r *run, next taker[B]) {
		in.build(r, &applier[A, B]{r, next, f, j})
	}}
}

type applier[A, B any] struct {
	run   *run
	next  taker[B]
	f     func(context.Context, A) (B, error)
	judge judge[A]
}

func (a *applier[A, B]) value(id ID, v A) error {
	ctx := a.run.ctx
	for attempt := 1; ; attempt++ {
		res, err := a.f(ctx, v)
		if err == nil {
			return a.next.value(id, res)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		failed := Failure[A]{a.judge.name, id, v, err, attempt}
		switch action := a.judge.decide(ctx, failed); action.kind {
		case actionRetry:
			if err := sleep(ctx, action.after); err != nil {
				return err
			}
			continue
		case actionDead:
			if err := a.judge.bury(ctx, failed); err != nil {
				return a.run.fail(err)
			}
		case actionFail:
			return a.run.fail(&StageError{a.judge.name, id, err})
		}
		a.run.track.took(id)
		return nil
	}
}

func (a *applier[A, B]) encoded(id ID, codec ipc.Codec, b []byte) error {
	v, err := unmarshal[A](codec, b)
	if err != nil {
		return a.run.fail(&StageError{a.judge.name, id, fmt.Errorf("decode: %w", err)})
	}
	return a.value(id, v)
}

func (a *applier[A, B]) frames(ids []ID, codec ipc.Codec, frames []byte) error {
	return eachFrame(a, ids, codec, frames)
}

func (a *applier[A, B]) pause() error { return a.next.pause() }
func (a *applier[A, B]) end()         { a.next.end() }
