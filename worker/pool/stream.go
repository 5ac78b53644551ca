package pool

import (
	"context"
	"errors"
	"time"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/retry"
	"github.com/tandemipc/tandem/worker/pool/internal/scheduler"
)

// OpenStream opens a stream of encoded items. It is what the Open methods of streams are built
// on. A stream takes the place of one call at its worker until it is over, and waits for one
// as calls do. If its worker ends, so does the stream: it is never sent again.
func (p *Pool[C]) OpenStream(ctx context.Context, call *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	return p.pool.openStream(ctx, call, o, 0, scheduler.First)
}

// OpenStream implements [ipc.StreamCaller].
func (v *view) OpenStream(ctx context.Context, call *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	return v.pool.openStream(ctx, call, o, v.key, v.entry)
}

// openStream opens a stream, inside of the interceptors if there are any.
func (p *pool) openStream(ctx context.Context, call *ipc.Invocation, o *ipc.StreamOpening, key uint64, e scheduler.Entry) (ipc.Stream, error) {
	if !p.chain.Calls() {
		return p.openStreamAt(ctx, call, o, key, e)
	}
	return p.chain.OpenStream(ctx, call, ipc.Peer{}, o, func(ctx context.Context, call *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
		return p.openStreamAt(ctx, call, o, key, e)
	})
}

// openStreamAt opens a stream at a worker that has a place for it.
func (p *pool) openStreamAt(ctx context.Context, call *ipc.Invocation, o *ipc.StreamOpening, key uint64, e scheduler.Entry) (ipc.Stream, error) {
	begun := p.now()
	timeout := max(call.Timeout, 0)
	attempts := 1
	for n, began := 1, begun; ; n++ {
		m, err := p.acquire(ctx, &call, key, e, timeout, begun, &began)
		if err != nil {
			return nil, err
		}
		start, over := began, o.OnEnd
		own := *o
		own.OnEnd = func(err error) {
			left := 1
			if retry.Again(err, &left) { // the worker drains, and has refused it
				p.scheduler.Lose(m, err, p.now())
			}
			p.leave(m, err, start, false)
			if over != nil {
				over(err)
			}
		}
		if p.chain.Calls() {
			numbered := *call
			numbered.Attempt = n
			call = &numbered
		}
		var st ipc.Stream
		p.guard(m, start, func() { st, err = m.Client.OpenStream(ctx, call, &own) })
		if err == nil {
			return st, nil
		}
		again := retry.Again(err, &attempts)
		p.leave(m, err, start, again)
		if !again {
			return nil, nameTimeout(err, call.Method.Name, timeout)
		}
		began, e = p.now(), scheduler.Again
	}
}

// leave gives the place of a stream back, which has ended with err, or could not be opened.
func (p *pool) leave(m *scheduler.Member, err error, began time.Duration, again bool) {
	now := p.now()
	if again || err != nil && !m.Client.Active() {
		p.scheduler.Lose(m, err, now)
	}
	closed := errors.Is(err, ipc.ErrClosed) && m.Client.Active() // by who has opened it
	p.scheduler.Release(m, began, now, scheduler.Outcome{Failed: err != nil && !closed, Again: again, Unknown: closed || isUnanswered(err)})
}
