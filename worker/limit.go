package worker

import (
	"context"
	"sync"
	"time"
)

// limited is a context that also ends when a limit runs out. Its timer starts
// when somebody first asks whether it has ended, that is, when a send blocks: on
// the fast path it costs nothing.
type limited struct {
	context.Context
	limit time.Duration

	mu     sync.Mutex
	timed  context.Context
	cancel context.CancelFunc
}

var limits = sync.Pool{New: func() any { return new(limited) }}

// bound returns ctx bounded by limit, if there is one. l has to be released after
// the last use of what bound returns, and can then be used anew.
func (l *limited) bound(ctx context.Context, limit time.Duration) context.Context {
	if limit <= 0 {
		return ctx
	}
	l.Context, l.limit = ctx, limit
	return l
}

// release ends the context and reports whether the limit ran out.
func (l *limited) release() (ranOut bool) {
	if l.cancel != nil {
		ranOut = l.Context.Err() == nil && l.timed.Err() != nil
		l.cancel()
		l.timed, l.cancel = nil, nil
	}
	l.Context = nil
	return ranOut
}

// start starts the timer if it has not been started.
func (l *limited) start() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timed == nil {
		l.timed, l.cancel = context.WithTimeout(l.Context, l.limit)
	}
	return l.timed
}

func (l *limited) Done() <-chan struct{} { return l.start().Done() }
func (l *limited) Err() error            { return l.start().Err() }
func (l *limited) Value(key any) any     { return l.start().Value(key) }
