package pool

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"sync"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pool/internal/scheduler"
)

// MapOption is an option of [Map].
type MapOption func(*mapOptions)

type mapOptions struct {
	window    int
	unordered bool
	goOn      bool
}

// WithUnordered makes [Map] yield results as they come, instead of in the order of the
// requests. Then a slow call does not hold up the results of others.
func WithUnordered() MapOption { return func(o *mapOptions) { o.unordered = true } }

// WithContinueOnError makes [Map] go on with the next call after it has yielded the error
// of a call, as a [*MapError], instead of ending.
func WithContinueOnError() MapOption { return func(o *mapOptions) { o.goOn = true } }

// maxWindow bounds the window of a Map, which keeps room for all of it.
const maxWindow = 1 << 16

// WithWindow sets how many requests [Map] takes from the sequence ahead of the results
// that it has yielded. So many calls run at a time at most. The default for a [Pool] is
// as many calls as it runs at a time at its largest size, and for other callers twice
// GOMAXPROCS. A window of more than 65536 is one of 65536. WithWindow panics if n is less
// than 1.
func WithWindow(n int) MapOption {
	if n < 1 {
		panic(fmt.Sprintf("tandem: window of %d requests", n))
	}
	return func(o *mapOptions) { o.window = min(n, maxWindow) }
}

// A MapError says which call of [Map] failed.
type MapError struct {
	// Index of the request in its sequence, from 0.
	Index int
	// Err is what the call returned.
	Err error
}

func (e *MapError) Error() string { return fmt.Sprintf("request %d: %v", e.Index, e.Err) }

// Unwrap returns Err.
func (e *MapError) Unwrap() error { return e.Err }

// mapCaller is a caller that says how Map best uses it: how many calls at a
// time, and through what, as one that need not fear a full queue.
type mapCaller interface {
	forMap() (window int, c ipc.Caller)
}

func (p *Pool[C]) forMap() (int, ipc.Caller) {
	o := p.pool.opts
	window := maxWindow
	if o.maxSize <= maxWindow/o.concurrency {
		window = o.maxSize * o.concurrency
	}
	return window, &view{pool: p.pool, entry: scheduler.Patient}
}

func (v *view) forMap() (int, ipc.Caller) {
	return min(v.pool.opts.concurrency, maxWindow), &view{pool: v.pool, key: v.key, entry: scheduler.Patient}
}

// Map calls m for each request of a sequence, several at a time, and yields the
// results in the order of the requests:
//
//	for res, err := range pool.Map(ctx, workers, Count, requests) {
//		if err != nil { ... }
//		...
//	}
//
// c may be any [ipc.Caller]. If it is a pool whose queue is full, the calls of Map wait
// instead of failing. Map holds at most one window of requests and results ([WithWindow]),
// however long the sequence is.
//
// If a call fails, Map yields its error, a [*MapError], and ends the loop, unless
// [WithContinueOnError] is given. If ctx ends, Map yields context.Cause(ctx) and ends the
// loop. When the loop ends, also by break, return or panic, Map cancels the calls that
// still run, and waits for them and until requests returns or yields once more. So a
// sequence that may block should end when ctx does.
//
// requests runs in a goroutine of its own. If it panics, so does the loop, after the
// results of the earlier requests.
func Map[Req, Res any](ctx context.Context, c ipc.Caller, m *ipc.Method[Req, Res], requests iter.Seq[Req], opts ...MapOption) iter.Seq2[Res, error] {
	o := mapOptions{window: 2 * runtime.GOMAXPROCS(0)}
	if mc, ok := c.(mapCaller); ok {
		o.window, c = mc.forMap()
	}
	for _, opt := range opts {
		opt(&o)
	}
	return func(yield func(Res, error) bool) {
		callCtx, cancel := context.WithCancel(ctx)
		r := &mapRun[Req, Res]{
			ctx: callCtx, caller: c, method: m, mapOptions: o,
			free: make(chan *mapItem[Req, Res], o.window), work: make(chan *mapItem[Req, Res], o.window), out: make(chan *mapItem[Req, Res], o.window),
		}
		go r.feed(requests)
		defer r.rethrow()
		defer cancel()
		r.yieldTo(ctx, yield)
	}
}

// mapRun is one loop over what Map returned. Items go from the feeder to a
// worker and to the loop, which frees them for the feeder. There are as many as
// the window, so no channel is ever full.
type mapRun[Req, Res any] struct {
	mapOptions
	ctx    context.Context
	caller ipc.Caller
	method *ipc.Method[Req, Res]

	free, work, out chan *mapItem[Req, Res]
	workers         sync.WaitGroup

	// How the sequence ended, readable when out is closed.
	panicked any
	exited   bool // by runtime.Goexit
}

// mapItem is a request and its result.
type mapItem[Req, Res any] struct {
	index int
	req   Req
	res   Res
	err   error
	done  chan struct{} // has a token when the result is there
}

// feed takes requests, hands them to workers, and closes out when all have ended.
func (r *mapRun[Req, Res]) feed(requests iter.Seq[Req]) {
	r.exited = true
	defer func() {
		if r.panicked = recover(); r.panicked != nil {
			r.exited = false
		}
		close(r.work)
		r.workers.Wait()
		close(r.out)
	}()
	index := 0
	for req := range requests {
		var item *mapItem[Req, Res]
		if index < r.window {
			item = &mapItem[Req, Res]{done: make(chan struct{}, 1)}
			r.workers.Go(r.serve)
		} else {
			select {
			case item = <-r.free:
			case <-r.ctx.Done():
			}
		}
		if r.ctx.Err() != nil {
			break
		}
		item.index, item.req = index, req
		index++
		if !r.unordered {
			r.out <- item
		}
		r.work <- item
	}
	r.exited = false
}

// serve makes calls.
func (r *mapRun[Req, Res]) serve() {
	for item := range r.work {
		item.res, item.err = r.method.Call(r.ctx, r.caller, item.req)
		item.done <- struct{}{}
		if r.unordered {
			r.out <- item
		}
	}
}

// yieldTo is the loop.
func (r *mapRun[Req, Res]) yieldTo(ctx context.Context, yield func(Res, error) bool) {
	var none mapItem[Req, Res]
	for {
		var item *mapItem[Req, Res]
		select {
		case item = <-r.out:
		case <-ctx.Done():
		}
		if item != nil {
			<-item.done
		}
		switch {
		case ctx.Err() != nil && (item == nil || item.err != nil):
			yield(none.res, context.Cause(ctx))
			return
		case item == nil:
			return
		case item.err != nil:
			if !yield(none.res, &MapError{item.index, item.err}) || !r.goOn {
				return
			}
		case !yield(item.res, nil):
			return
		}
		*item = mapItem[Req, Res]{done: item.done}
		r.free <- item
	}
}

// rethrow waits until nothing runs, and ends the loop's goroutine as the sequence
// has ended its own.
func (r *mapRun[Req, Res]) rethrow() {
	for range r.out {
	}
	if r.panicked != nil {
		panic(r.panicked)
	}
	if r.exited {
		runtime.Goexit()
	}
}
