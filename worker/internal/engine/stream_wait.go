package engine

import (
	"context"
	"sync"
	"time"
)

// wait waits until ready, which is called with st.mu, may have become true, or the stream is
// over. It reads the link if nobody else does, unless it waits to send on the side of the handler:
// there the background reader reads, which runs quick handlers itself.
func (st *Stream) wait(ctx context.Context, p *waitPlace, ready func() bool) error {
	c := streamCalls.Get().(*call)
	c.word.Store(c.word.Load()&^callState + 8 | callWaiting)
	if c.also = st.ctx; st.handler != nil && ctx == context.Context(st.handler) && st.handler.timeout == 0 {
		// Whatever ends this context ends the waiting, so it need not be a real one.
		ctx, c.also = context.Background(), nil
	}
	now := monotonic()
	c.soon = now-p.last < st.session.soonTime()
	p.last = now
	reading := &st.session.streams.reading
	// SYNC: pairs with Session.Close, which ends all streams and then loads reading.
	reading.Add(1)
	defer reading.Add(-1)
	st.mu.Lock()
	if ready() || st.over {
		st.mu.Unlock()
		c.reuse()
		return nil
	}
	p.call = c
	st.mu.Unlock()
	var err error
	if p == &st.out.waiter && st.handler != nil && st.handler.word == 0 {
		err = st.session.awaitOthers(ctx, c)
	} else {
		err = st.session.await(ctx, c, 0, st.waitsFor())
	}
	st.mu.Lock()
	p.call = nil
	st.mu.Unlock()
	c.reuse()
	if ended, ok := err.(*waitEndedError); ok {
		err = ended.error
	}
	return err
}

// waitPlace is where a goroutine waits that receives, or that sends.
type waitPlace struct {
	call *call         // nil if none waits; guarded by Stream.mu
	last time.Duration // when it has begun to wait last, by monotonic
}

// complete ends the waiting. Stream.mu is held.
func (p *waitPlace) complete() { p.call.complete() }

// soonTime is how long ago a goroutine has waited that will wait again soon. Where there are no
// handlers nothing is late that comes meanwhile: who waits for it would read it.
func (s *Session) soonTime() time.Duration {
	if s.config.Handlers.serves() {
		return 20 * time.Microsecond
	}
	return tick
}

// waitsFor returns the context of the handler that waits for this stream, if the background
// reader may run it: then nobody else would read.
func (st *Stream) waitsFor() *requestContext {
	if st.handler != nil {
		return st.handler
	}
	return st.from
}

// streamCalls are calls that are in no table: goroutines wait with them as callers do.
var streamCalls = sync.Pool{New: func() any { return &call{wake: make(chan struct{}, 1)} }}

// reuse frees a call of streamCalls, which nobody else knows.
func (c *call) reuse() {
	if c.parked {
		c.parked = false
		select {
		case <-c.wake:
		default:
		}
	}
	c.response, c.err, c.also = nil, nil, nil
	streamCalls.Put(c)
}

// complete ends the waiting with c, which may be nil.
func (c *call) complete() {
	if c == nil {
		return
	}
	for {
		word := c.word.Load()
		state := word & callState
		if state != callWaiting && state != callParked {
			return
		}
		if c.word.CompareAndSwap(word, word&^callState|callDone) {
			if state == callParked {
				c.notify()
			}
			return
		}
	}
}
