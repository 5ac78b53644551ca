package pipeline

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// RunOption is an option of [Flow.Into].
type RunOption func(*runOptions)

type runOptions struct {
	drain  time.Duration
	resume Checkpoint
	save   func(context.Context, Checkpoint) error
	every  time.Duration
}

// Drain sets how long what was taken from the source may take to get through when the context of
// [Flow.Into] has ended; the default is 10 s. 0 means that all is given up at once, to be taken from the
// source again by another run.
func Drain(d time.Duration) RunOption { return func(o *runOptions) { o.drain = d } }

// run is one run of a pipeline.
type run struct {
	runOptions
	ctx       context.Context // ends when all is given up
	stop      context.CancelFunc
	sourceCtx context.Context // ends when no more records are to be taken
	stopTake  context.CancelFunc
	track     *tracker
	resumed   *resumed
	stages    []*core // from the sink to the source
	pump      func() error
	ack       func(ctx context.Context, before uint64) error
	done      func(ctx context.Context, positions []uint64) error // instead of ack, of a source that numbers its records itself
	release   func(positions []uint64)                            // which has this, too
	taken     *atomic.Uint64
	size      uint64
	through   chan struct{} // closed when the end has come through
	forget    func(before uint64) error
	flush     func(ctx context.Context) error
	began     time.Time
	took      atomic.Int64 // how long it has taken, when it is over
	out       atomic.Uint64

	acked    uint64   // what the source was told
	finished []uint64 // what it was not told yet, if it numbers its records itself
	spoilt   bool     // the sink may have lost what it had taken

	workers  sync.WaitGroup
	mu       sync.Mutex
	err      error // why it has failed
	panicked any
	exited   bool
}

// Into runs the pipeline: it moves records through all stages into a sink, until the source ends, ctx
// ends, or something fails for good. It returns nil when all records of the source are through.
//
// If the source ends with an error, Into returns that when what came before is through. If ctx
// ends it takes no more, waits until what it has taken is through, but not longer than [Drain], and
// returns context.Cause(ctx). If a stage, the sink, the source's Ack or a checkpoint fails it gives all up at once
// and returns why: see [StageError]. In every case the source was told to forget only what the sink
// has taken, or what was left out as the stages' options say.
//
// A flow can run more than once, also at a time. If a function of the user's panics, so does Into.
func (f *Flow[T]) Into(ctx context.Context, sink Sink[T], opts ...RunOption) error {
	if sink == nil {
		panic("tandem: pipeline: Into with a nil sink")
	}
	r := &run{runOptions: runOptions{drain: 10 * time.Second}, through: make(chan struct{}), size: f.source.size, began: time.Now()}
	for _, opt := range opts {
		opt(&r.runOptions)
	}
	r.ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer r.stop()
	r.sourceCtx, r.stopTake = context.WithCancel(r.ctx)
	r.resumed = newResumed(r.resume)
	r.track = newTracker(r.resumed.low(), f.source.reach)
	if s, ok := sink.(forgetter); ok {
		r.forget = s.Forget
	}
	if s, ok := sink.(flusher); ok {
		r.flush = s.Flush
	}
	f.build(r, &drain[T]{run: r, sink: sink})
	f.latest.Store(r)
	if r.release != nil {
		defer func() { r.release(r.track.unfinished(r.track.takeFinished(r.finished))) }()
	}

	var sourceErr error
	r.work(func() { sourceErr = r.pump() })
	r.acked = r.track.low()
	enough, settled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(settled)
		r.guard(func() { r.acknowledge(enough) })
	}()
	for _, s := range r.stages {
		defer context.AfterFunc(r.ctx, s.wake)()
	}
	defer context.AfterFunc(r.sourceCtx, r.track.end)()

	interrupted := r.await(ctx)
	r.stop()
	for _, s := range r.stages {
		s.wake()
	}
	r.workers.Wait()
	close(enough)
	<-settled
	switch {
	case r.panicked != nil:
		panic(r.panicked)
	case r.exited:
		runtime.Goexit()
	}
	err := r.failure()
	if err == nil {
		err = r.settle()
	} else {
		_ = r.settle() // what the sink has taken before is taken
	}
	r.took.Store(int64(time.Since(r.began)))
	switch {
	case err != nil:
		return err
	case interrupted:
		return context.Cause(ctx)
	}
	return sourceErr
}

// await waits until all is through, or given up. It reports whether ctx has ended before.
func (r *run) await(ctx context.Context) (interrupted bool) {
	select {
	case <-r.through:
		return false
	case <-r.ctx.Done():
		return false
	case <-ctx.Done():
	}
	r.stopTake()
	t := time.NewTimer(r.drain)
	defer t.Stop()
	select {
	case <-r.through:
	case <-r.ctx.Done():
	case <-t.C:
	}
	return true
}

// add adds a stage.
func (r *run) add(s *core) { r.stages = append(r.stages, s) }

// fail ends the run because of err, and returns err.
func (r *run) fail(err error) error {
	r.mu.Lock()
	if r.err == nil {
		r.err = err
	}
	r.mu.Unlock()
	r.stop()
	return err
}

// failure returns why the run has failed, nil if it has not.
func (r *run) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// work runs f in a goroutine that Into waits for.
func (r *run) work(f func()) { r.workers.Go(func() { r.guard(f) }) }

// guard runs f. If f panics, or ends its goroutine, so does Into.
func (r *run) guard(f func()) {
	returned := false
	defer func() {
		if returned {
			return
		}
		p := recover()
		r.mu.Lock()
		if p == nil {
			r.exited = true
		} else if r.panicked == nil {
			r.panicked = fmt.Sprintf("%v\n\n%s", p, debug.Stack())
		}
		r.mu.Unlock()
		r.stop()
	}()
	f()
	returned = true
}

// acknowledge tells the source what it may forget, and saves checkpoints, until enough is closed.
func (r *run) acknowledge(enough <-chan struct{}) {
	due, moved := (<-chan time.Time)(nil), r.track.moved
	if r.save != nil {
		t := time.NewTicker(r.every)
		defer t.Stop()
		due, moved = t.C, nil
	}
	for {
		select {
		case <-moved:
		case <-due:
		case <-enough:
			return
		}
		if r.settle() != nil {
			return
		}
	}
}

// settle saves a checkpoint, if that is wanted, and tells the source what it may forget. One
// goroutine at a time calls it.
func (r *run) settle() error {
	if r.spoilt {
		return nil
	}
	ctx := context.WithoutCancel(r.ctx)
	failed := func(what string, err error) error {
		return r.fail(fmt.Errorf("tandem: pipeline: %s: %w", what, err))
	}
	cp := Checkpoint{Position: r.track.low()}
	if r.save != nil {
		cp = r.track.checkpoint()
	}
	if r.done != nil {
		r.finished = r.track.takeFinished(r.finished)
	}
	if r.flush != nil {
		if err := r.flush(ctx); err != nil {
			r.spoilt = true
			return failed("flush the sink", err)
		}
	}
	if r.save != nil {
		if err := r.save(ctx, cp); err != nil {
			return failed("save the checkpoint", err)
		}
		if r.forget != nil {
			if err := r.forget(cp.low()); err != nil {
				return failed("make the sink forget", err)
			}
		}
	}
	if r.done != nil {
		if len(r.finished) == 0 {
			return nil
		}
		if err := r.done(ctx, r.finished); err != nil {
			return failed("acknowledge to the source", err)
		}
		r.finished = r.finished[:0]
		return nil
	}
	if low := cp.low(); low > r.acked {
		if err := r.ack(ctx, low); err != nil {
			return failed("acknowledge to the source", err)
		}
		r.acked = low
	}
	return nil
}

// Sink takes what comes out of a pipeline.
type Sink[T any] interface {
	// Write takes records, which are a batch of the last stage or fewer. When it has returned
	// nil they are taken: the source may forget them. An error ends the pipeline, and none of
	// the records counts as taken, so another run brings all of them again. It is called by
	// one goroutine at a time. It may not keep the slice, nor bytes of codec raw in it.
	Write(ctx context.Context, records []Item[T]) error
}

// Item is a record that came out of a pipeline.
type Item[T any] struct {
	// ID names the record.
	ID ID
	// Record is what the last stage made.
	Record T
}

// SinkFunc is a function that is a [Sink]. It gets one record at a time.
type SinkFunc[T any] func(ctx context.Context, record T) error

// Write implements [Sink].
func (f SinkFunc[T]) Write(ctx context.Context, records []Item[T]) error {
	for i := range records {
		if err := f(ctx, records[i].Record); err != nil {
			return err
		}
	}
	return nil
}

// forgetter is a sink that remembers ids.
type forgetter interface {
	// Forget says that a checkpoint was saved, after which no record comes whose position is
	// before this one. See [FileSink.Forget].
	Forget(before uint64) error
}

// flusher is a sink that holds records back.
type flusher interface {
	Flush(ctx context.Context) error
}

// drain is the end of a pipeline.
type drain[T any] struct {
	run   *run
	sink  Sink[T]
	items []Item[T]
}

// mostItems is how many records a sink gets at a time: so many stay in the processor's cache.
const mostItems = 512

func (d *drain[T]) value(id ID, v T) error {
	d.items = append(d.items, Item[T]{id, v})
	if len(d.items) >= mostItems {
		return d.pause()
	}
	return nil
}

func (d *drain[T]) encoded(id ID, codec ipc.Codec, b []byte) error {
	v, err := unmarshal[T](codec, b)
	if err != nil {
		return d.run.fail(&StageError{"sink", id, fmt.Errorf("decode: %w", err)})
	}
	return d.value(id, v)
}

func (d *drain[T]) frames(ids []ID, codec ipc.Codec, frames []byte) error {
	raw, ok := any(&d.items).(*[]Item[[]byte])
	if !ok || codec != ipc.Raw {
		return eachFrame(d, ids, codec, frames)
	}
	for len(ids) > 0 {
		n := min(len(ids), mostItems-len(d.items))
		*raw, frames = appendRaw(*raw, ids[:n], frames)
		if ids = ids[n:]; len(d.items) >= mostItems {
			if err := d.pause(); err != nil {
				return err
			}
		}
	}
	return nil
}

// appendRaw appends the first records of frames, where they are, and returns the rest, too.
func appendRaw(items []Item[[]byte], ids []ID, frames []byte) (_ []Item[[]byte], rest []byte) {
	start := len(items)
	items = slices.Grow(items, len(ids))[:start+len(ids)]
	for i, id := range ids {
		f, rest, _ := nextFrame(frames)
		frames = rest
		items[start+i] = Item[[]byte]{id, f.body}
	}
	return items, frames
}

func (d *drain[T]) pause() error {
	if len(d.items) == 0 {
		return nil
	}
	if err := d.run.ctx.Err(); err != nil {
		return err
	}
	if err := d.sink.Write(d.run.ctx, d.items); err != nil {
		return d.run.fail(&StageError{"sink", d.items[0].ID, err})
	}
	d.run.out.Add(uint64(len(d.items)))
	tookItems(d.run.track, d.items)
	clear(d.items)
	d.items = d.items[:0]
	return nil
}

func (d *drain[T]) end() { close(d.run.through) }
